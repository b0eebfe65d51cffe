"""Topics that every worker reads from their beginning, outside its group: control messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from connectors.kafka.backoff import pauses
from connectors.kafka.client import aiokafka_settings
from connectors.kafka.health import Health
from connectors.kafka.solo import Solo
from schemas.config import Kafka

__all__ = ["Callback", "Follower"]

log = structlog.get_logger(__name__)

# Called with key, value and offset; a value of None is a tombstone.
Callback = Callable[[bytes | None, bytes | None, int], None]

POLL_MS = 5_000
REQUEST_MS = 20_000


class Follower:
    """Reads topics from their beginning and goes on; belongs to the worker's event loop.

    Parameters
    ----------
    config
        The connection.
    topics
        What to call for the messages of each topic, one after the other and in the order of the
        log (across partitions, in any order).
    solo
        The thread to call in: the handler's own, so that a message never comes amid a batch.
    health
        Where waits are reported.
    """

    def __init__(
        self, config: Kafka, topics: Mapping[str, Callback], solo: Solo, health: Health
    ) -> None:
        self._config = config
        self._topics = dict(topics)
        self._solo = solo
        self._health = health
        self._next: dict[TopicPartition, int] = {}
        self._caught_up = asyncio.Event()

    async def caught_up(self) -> None:
        """Return when everything that was there at the start has been handed over."""
        if self._topics:
            await self._caught_up.wait()

    async def run(self) -> None:
        """Follow for ever, across broken connections; raise what a callback raises."""
        if not self._topics:
            return
        delays = pauses()
        while True:
            consumer = AIOKafkaConsumer(
                *self._topics,
                **aiokafka_settings(self._config),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                request_timeout_ms=REQUEST_MS,
            )
            try:
                await consumer.start()
                await self._read(consumer)
            except (KafkaError, OSError, TimeoutError) as error:
                names = ", ".join(self._topics)
                self._health.wait("follow", f"cannot follow {names}: {error!r}")
                await asyncio.sleep(next(delays))
            finally:
                with contextlib.suppress(Exception):
                    await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        places = consumer.assignment()
        for place in places & self._next.keys():
            consumer.seek(place, self._next[place])
        ends = await consumer.end_offsets(places)
        while True:
            if not self._caught_up.is_set():
                positions = {place: await consumer.position(place) for place in places}
                if all(positions[place] >= ends[place] for place in places):
                    self._caught_up.set()
            self._health.done("follow")
            batches = await consumer.getmany(timeout_ms=POLL_MS)
            for place, records in batches.items():
                for record in records:
                    call = self._topics[place.topic]
                    await self._solo.call(call, record.key, record.value, record.offset)
                    self._next[place] = record.offset + 1
