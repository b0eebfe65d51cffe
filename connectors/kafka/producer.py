"""Producers: how they are made, started, and closed whatever state they are in."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from connectors.kafka.client import METADATA_MS, aiokafka_settings
from schemas.config import Kafka

__all__ = ["close_producer", "new_producer", "start_producer"]

# Closing a producer that cannot deliver must not hold up the end of the process.
CLOSE_SECONDS = 2.0


def new_producer(
    config: Kafka, compression: str | None, batch_bytes: int, **more: Any
) -> AIOKafkaProducer:
    """Make an idempotent producer whose messages all replicas acknowledge."""
    return AIOKafkaProducer(
        **aiokafka_settings(config),
        acks="all",
        enable_idempotence=True,
        compression_type=compression,
        max_batch_size=batch_bytes,
        request_timeout_ms=20_000,
        metadata_max_age_ms=METADATA_MS,
        **more,
    )


async def start_producer(producer: AIOKafkaProducer, seconds: float) -> None:
    """Connect within a time; a producer that cannot is closed before the error is raised."""
    try:
        async with asyncio.timeout(seconds):
            await producer.start()
    except BaseException:
        await close_producer(producer)
        raise


async def close_producer(producer: AIOKafkaProducer) -> None:
    """Close a producer whatever state it is in; its own ``stop`` waits for what cannot be sent."""
    stopping = asyncio.ensure_future(producer.stop())
    await asyncio.wait([stopping], timeout=CLOSE_SECONDS)
    if not stopping.done():
        await _drop(producer)
        await asyncio.wait([stopping], timeout=CLOSE_SECONDS)
    stopping.cancel()
    if stopping.cancelled() or not stopping.done() or stopping.exception() is not None:
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await producer.client.close()


async def _drop(producer: AIOKafkaProducer) -> None:
    """Cancel what ``stop`` waits for: it is published by another producer."""
    # ruff: noqa: SLF001 (there is no public way)
    sender, accumulator = producer._sender, producer._message_accumulator
    task = sender.sender_task
    if task is not None:
        # it would report the end of its task to a transaction that there is not, and fail
        task.remove_done_callback(sender._fail_all)
        task.cancel()
        await asyncio.wait([task], timeout=CLOSE_SECONDS)
    # A batch that waits for another try takes itself off this list, though it is not on it.
    accumulator._pending_batches.update(*accumulator._batches.values())
    for batch in list(accumulator._pending_batches):
        batch.future.cancel()
