"""Gaps in what a group of workers publishes, while records come at a steady rate.

``python -m connectors.kafka.bench_gaps --bootstrap HOST:PORT --topic NAME --read NAME --skip N
--rate R`` waits until N messages stand in the topic to read, prints a line, and produces R
records/s until its standard input ends. Meanwhile it notes when messages come, apart by the
partition that their field ``partition`` names. Then it prints one line of JSON: ``steady``, the
median ms between two arrivals of a partition, and ``gaps``, the longer ones, each as partition,
begin and end (ns on the monotonic clock).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import defaultdict

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from connectors.kafka.bench_feed import BATCH_BYTES, TICK_SECONDS, feed

__all__ = ["main"]

PATIENCE_SECONDS = 120.0
LONG_NS = 50_000_000


class _Made(msgspec.Struct):
    partition: int


class _Arrivals:
    """When messages came, by the partition that they name."""

    def __init__(self) -> None:
        self.count = 0
        self.watching = False
        self._last: dict[int, int] = {}
        self._waits: defaultdict[int, list[float]] = defaultdict(list)
        self._gaps: list[tuple[int, int, int]] = []
        self._decoder = msgspec.json.Decoder(_Made)

    def came(self, values: list[bytes], now: int) -> None:
        """Note messages of one poll."""
        self.count += len(values)
        if not self.watching:
            return
        for number in {self._decoder.decode(value).partition for value in values}:
            last = self._last.get(number, now)
            if last < now:
                self._waits[number].append((now - last) / 1e6)
            if now - last > LONG_NS:
                self._gaps.append((number, last, now))
            self._last[number] = now

    def facts(self) -> dict[str, object]:
        """Return what is printed."""
        steady = statistics.median(wait for waits in self._waits.values() for wait in waits)
        return {"steady": steady, "gaps": self._gaps}


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m connectors.kafka.bench_gaps")
    for name in ("--bootstrap", "--topic", "--read"):
        parser.add_argument(name, required=True)
    for name in ("--skip", "--rate"):
        parser.add_argument(name, required=True, type=int)
    facts = asyncio.run(_measure(parser.parse_args(argv)))
    _say(json.dumps(facts))
    return 0


async def _measure(options: argparse.Namespace) -> dict[str, object]:
    arrivals = _Arrivals()
    reading = asyncio.create_task(_read(arrivals, options.bootstrap, options.read))
    producer = AIOKafkaProducer(bootstrap_servers=options.bootstrap, max_batch_size=BATCH_BYTES)
    await producer.start()
    feeding: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while arrivals.count < options.skip:
                await asyncio.sleep(TICK_SECONDS)
        arrivals.watching = True
        feeding = asyncio.create_task(
            feed(producer, options.topic, options.rate, total=float("inf"))
        )
        _say("feeding")
        await asyncio.to_thread(sys.stdin.read)
        if feeding.done():
            feeding.result()
    finally:
        tasks = [task for task in (reading, feeding) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await producer.stop()
    return arrivals.facts()


async def _read(arrivals: _Arrivals, bootstrap: str, topic: str) -> None:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        while True:
            batches = await consumer.getmany(timeout_ms=1000)
            now = time.monotonic_ns()
            arrivals.came([x.value for batch in batches.values() for x in batch], now)
    finally:
        await consumer.stop()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
