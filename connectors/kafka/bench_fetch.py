"""Baseline: how fast one process can fetch and decode without any framework.

``python -m connectors.kafka.bench_fetch --bootstrap HOST:PORT --topic NAME --records N`` reads a
topic that is already filled with JSON objects of eight fields (``key``, ``time`` and six numbers
``a`` to ``f``) into NumPy columns, and prints one line of JSON, timed from the first fetch to the
last. Run it in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer
from numpy.typing import NDArray

from connectors.kafka.bench_options import parse

__all__ = ["Record", "columns", "main"]

# As much as the worker asks for.
PARTITION_BYTES = 4 << 20


class Record(msgspec.Struct):
    """The record that the benchmarks are made of."""

    key: str
    time: int
    a: float
    b: float
    c: float
    d: float
    e: float
    f: float


def columns(values: list[bytes]) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
    """Decode a fetch into keys, times and six columns of numbers."""
    data = b"[" + b",".join(values) + b"]"
    rows = msgspec.json.decode(data, type=list[Record])
    keys = [row.key for row in rows]
    times = np.array([row.time for row in rows], np.int64)
    numbers = np.array([(x.a, x.b, x.c, x.d, x.e, x.f) for x in rows], np.float64)
    return keys, times, numbers


def main(argv: list[str]) -> int:
    """Measure and print."""
    options = parse("bench_fetch", argv)
    seconds = asyncio.run(_measure(options.bootstrap, options.topic, options.records))
    sys.stdout.write(json.dumps({"records": options.records, "seconds": seconds}) + "\n")
    return 0


async def _measure(bootstrap: str, topic: str, records: int) -> float:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=PARTITION_BYTES,
    )
    await consumer.start()
    try:
        begin, count = 0.0, 0
        while count < records:
            batches = await consumer.getmany(timeout_ms=1000)
            begin = begin or time.perf_counter()
            for batch in batches.values():
                columns([record.value for record in batch])
                count += len(batch)
        return time.perf_counter() - begin
    finally:
        await consumer.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
