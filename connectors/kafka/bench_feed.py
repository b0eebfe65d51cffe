"""A steady producer of the records that the benchmarks are made of."""

from __future__ import annotations

import asyncio
import time

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer

from connectors.partitioner import partitions_of

__all__ = ["BATCH_BYTES", "feed"]

BATCH_BYTES = 1 << 20
TICK_SECONDS = 0.005
NUMBERS = "abcdef"
KEYS = 10_000


async def feed(producer: AIOKafkaProducer, topic: str, rate: int, total: float) -> None:
    """Produce at an even rate, a batch a tick and partition; each record bears the time."""
    rng = np.random.default_rng(1)
    partitions = len(await producer.partitions_for(topic))
    sent, begin = 0, time.perf_counter()
    while sent < total:
        due = int(min(total, (time.perf_counter() - begin) * rate))
        keys = [f"key-{k}".encode() for k in rng.integers(0, KEYS, due - sent).tolist()]
        numbers = rng.normal(size=(due - sent, len(NUMBERS))).round(4).tolist()
        batches = [producer.create_batch() for _ in range(partitions)]
        for key, row, place in zip(keys, numbers, partitions_of(keys, partitions), strict=True):
            fields = dict(zip(NUMBERS, row, strict=True))
            record = {"key": key.decode(), "time": time.time_ns(), **fields}
            batches[place].append(key=key, value=msgspec.json.encode(record), timestamp=None)
        for place, batch in enumerate(batches):
            if batch.record_count():
                await producer.send_batch(batch, topic, partition=place)
        sent = due
        await asyncio.sleep(TICK_SECONDS)
    await producer.flush()
