"""Which topics there are, asked from an event loop, in a way that makes no broker create one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from connectors.kafka.backoff import pauses
from connectors.kafka.client import aiokafka_settings
from connectors.kafka.health import Health
from schemas.config import Kafka

__all__ = ["await_topics", "existing_topics"]

METADATA_MS = 5_000


async def existing_topics(config: Kafka) -> set[str]:
    """Return the names of all topics that the client may see.

    Raises
    ------
    KafkaError, OSError, TimeoutError
        If no broker answers.
    """
    client = AIOKafkaClient(**aiokafka_settings(config), request_timeout_ms=METADATA_MS)
    try:
        await client.bootstrap()
        return set((await client.fetch_all_metadata()).topics())
    finally:
        await client.close()


async def await_topics(config: Kafka, topics: Iterable[str], health: Health) -> None:
    """Return when the broker answers and has all topics."""
    wanted = set(topics)
    for pause in pauses():
        try:
            missing = sorted(wanted - await existing_topics(config))
        except (KafkaError, OSError, TimeoutError) as error:
            reason = f"no broker answers at {config.bootstrap}: {error!r}"
        else:
            if not missing:
                health.done("topics")
                return
            reason = f"there is no topic {', '.join(missing)} on {config.bootstrap}"
        health.wait("topics", reason)
        await asyncio.sleep(pause)
