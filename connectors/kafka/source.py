"""A source that reads a topic from ordinary, synchronous code, outside any consumer group.

It reads with aiokafka, in an event loop that turns only while records are asked for: that is
several times as fast as kafka-python, and knows all codecs without further packages.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from connectors.base import Fetch, Partition
from connectors.kafka.client import aiokafka_settings
from connectors.kafka.quiet import quiet_libraries
from connectors.kafka.records import to_fetch
from connectors.kafka.topics import existing_topics
from schemas.config import Kafka
from schemas.errors import SetupError

__all__ = ["KafkaSource", "Place"]

# A time in ns since 1970 UTC, or the offset of each partition (others: from begin to end).
Place = int | Mapping[int, int]

NS_PER_MS = 1_000_000

# How soon close() takes effect while nothing comes.
POLL_MS = 200
REQUEST_MS = 10_000
PARTITION_BYTES = 4 << 20
FETCH_RECORDS = 4096

# Without a record for so long, while the log is known to hold more, the broker counts as gone.
STALL_SECONDS = 60.0


class KafkaSource:
    """All partitions of one topic, each in offset order.

    Parameters
    ----------
    config
        The connection.
    topic
        The topic.
    since
        Where to begin: offsets, or a time, which means the first record of each partition that is
        not older. None begins at the first record there is.
    until
        Where to end, that place excluded. None ends where the topic ended at the first call of
        :meth:`fetches`.
    follow
        Go on for ever instead; ``until`` must then be None.
    isolation_level
        ``read_committed`` hides messages of open and aborted transactions.
    """

    def __init__(
        self,
        config: Kafka,
        topic: str,
        since: Place | None = None,
        until: Place | None = None,
        *,
        follow: bool = False,
        isolation_level: str = "read_committed",
    ) -> None:
        if follow and until is not None:
            msg = "a source that follows its topic has no end: leave out `until` or `follow`"
            raise ValueError(msg)
        self._config = config
        self._topic = topic
        self._since = since
        self._until = until
        self._follow = follow
        self._isolation_level = isolation_level
        self._span: dict[TopicPartition, tuple[int, int]] | None = None
        self._closed = threading.Event()

    def fetches(self) -> Iterator[Fetch]:
        """Yield the records; blocks while there are none to come by.

        Raises
        ------
        SetupError
            If there is no such topic, or no broker, or it goes away for a minute.
        """
        quiet_libraries()
        loop = asyncio.new_event_loop()
        try:
            consumer = loop.run_until_complete(self._connect())
            try:
                yield from self._read(loop, consumer)
            finally:
                loop.run_until_complete(consumer.stop())
        finally:
            loop.close()

    def close(self) -> None:
        """End every iteration soon; may be called twice and in any thread."""
        self._closed.set()

    async def _connect(self) -> AIOKafkaConsumer:
        try:
            found = self._topic in await existing_topics(self._config)
            consumer = await self._consumer() if found else None
        except (KafkaError, OSError, TimeoutError) as error:
            msg = f"cannot read {self._topic!r} from {self._config.bootstrap}: {error!r}"
            raise SetupError(msg) from error
        if consumer is None:
            msg = f"there is no topic {self._topic!r} on {self._config.bootstrap}"
            raise SetupError(msg)
        return consumer

    async def _consumer(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            self._topic,
            **aiokafka_settings(self._config),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=self._isolation_level,
            max_partition_fetch_bytes=PARTITION_BYTES,
            request_timeout_ms=REQUEST_MS,
        )
        try:
            await consumer.start()
            if self._span is None:
                self._span = await self._find_span(consumer)
            for place, (begin, _) in self._span.items():
                consumer.seek(place, begin)
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    async def _find_span(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, tuple[int, int]]:
        """Return where each partition begins and ends for us."""
        places = sorted(consumer.assignment())
        first = await consumer.beginning_offsets(places)
        last = await consumer.end_offsets(places)
        begin = await _offsets(consumer, self._since, first, last)
        end = last if self._until is None else await _offsets(consumer, self._until, last, last)
        return {x: (max(begin[x], first[x]), min(end[x], last[x])) for x in places}

    def _read(self, loop: asyncio.AbstractEventLoop, consumer: AIOKafkaConsumer) -> Iterator[Fetch]:
        ends = {place: end for place, (_, end) in (self._span or {}).items()}
        left = {place for place, (begin, end) in (self._span or {}).items() if begin < end}
        moved = time.monotonic()
        while (left or self._follow) and not self._closed.is_set():
            places = () if self._follow else tuple(left)
            batches = loop.run_until_complete(
                consumer.getmany(*places, timeout_ms=POLL_MS, max_records=FETCH_RECORDS)
            )
            for place, records in batches.items():
                moved = time.monotonic()
                if not self._follow:
                    records = [record for record in records if record.offset < ends[place]]
                if records:
                    yield to_fetch(Partition(place.topic, place.partition), records)
                if self._closed.is_set():
                    return
            left -= {x for x in left if loop.run_until_complete(consumer.position(x)) >= ends[x]}
            if left and not self._follow and time.monotonic() - moved > STALL_SECONDS:
                msg = f"{self._config.bootstrap} has sent nothing of {self._topic!r} for a minute"
                raise SetupError(msg)


async def _offsets(
    consumer: AIOKafkaConsumer,
    where: Place | None,
    default: Mapping[TopicPartition, int],
    last: Mapping[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """Return the offset that a place means in each partition."""
    if where is None:
        return dict(default)
    if isinstance(where, Mapping):
        return {place: where.get(place.partition, default[place]) for place in last}
    # the log keeps ms: the first whole one that is not before the time
    moment = -(-where // NS_PER_MS)
    found = await consumer.offsets_for_times(dict.fromkeys(last, moment))
    return {place: last[place] if (at := found.get(place)) is None else at.offset for place in last}
