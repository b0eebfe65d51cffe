"""Time from produce to read: a steady feeder of one topic and a reader of another.

``python -m connectors.kafka.bench_latency --bootstrap HOST:PORT --topic NAME --read NAME
--field NAME --skip N --rate R --seconds S`` waits until N messages stand in the topic to read: then
the worker, if there is one between the topics, has caught up with what was preloaded. Then it
produces R records/s, each with the time of its making as its event time, which it finds again in a
field of what it reads, and prints one line of JSON with quantiles of the delay in ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from connectors.kafka.bench_feed import BATCH_BYTES, TICK_SECONDS, feed

__all__ = ["main"]

WARM_UP_SECONDS = 3.0
PATIENCE_SECONDS = 120.0
QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


class _Reader:
    """Reads a topic to its end and on, noting when each message came and when it was made."""

    def __init__(self, bootstrap: str, topic: str, field: str) -> None:
        self.made: list[int] = []
        self.read: list[int] = []
        made: Any = msgspec.defstruct("Made", [("at", int, msgspec.field(name=field))])
        self._decoder = msgspec.json.Decoder(made)
        self._consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )

    async def run(self) -> None:
        await self._consumer.start()
        try:
            while True:
                batches = await self._consumer.getmany(timeout_ms=1000)
                now = time.time_ns()
                for batch in batches.values():
                    self.made += [self._decoder.decode(message.value).at for message in batch]
                    self.read += [now] * len(batch)
        finally:
            await self._consumer.stop()

    def quantiles_ms(self, since: int) -> dict[str, float]:
        """Return quantiles of the delays of what was made at ``since`` (ns) or later."""
        made, read = np.array(self.made), np.array(self.read)
        delays = (read - made)[made >= since] / 1e6
        return {name: float(np.quantile(delays, q)) for name, q in QUANTILES.items()}


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m connectors.kafka.bench_latency")
    for name in ("--bootstrap", "--topic", "--read", "--field"):
        parser.add_argument(name, required=True)
    for name in ("--skip", "--rate", "--seconds"):
        parser.add_argument(name, required=True, type=int)
    facts = asyncio.run(_measure(parser.parse_args(argv)))
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


async def _measure(options: argparse.Namespace) -> dict[str, float]:
    reader = _Reader(options.bootstrap, options.read, options.field)
    reading = asyncio.create_task(reader.run())
    producer = AIOKafkaProducer(bootstrap_servers=options.bootstrap, max_batch_size=BATCH_BYTES)
    await producer.start()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await _reaches(reader, options.skip)
        begin = time.time_ns()
        sent = int(options.rate * (WARM_UP_SECONDS + options.seconds))
        await feed(producer, options.topic, options.rate, sent)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await _reaches(reader, options.skip + sent)
    finally:
        await producer.stop()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return reader.quantiles_ms(begin + int(WARM_UP_SECONDS * 1e9))


async def _reaches(reader: _Reader, count: int) -> None:
    while len(reader.made) < count:
        await asyncio.sleep(TICK_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
