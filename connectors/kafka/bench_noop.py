"""Baseline: what faust alone does with a record, which is nothing.

``python -m connectors.kafka.bench_noop --bootstrap HOST:PORT --topic NAME --records N`` reads a
topic that is already filled, with faust as it comes, and prints one line of JSON, timed from the
first record to the last. Run it in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
import uuid
from typing import Any

import faust

from connectors.kafka.bench_options import parse
from connectors.kafka.quiet import quiet_libraries

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Measure and print."""
    options = parse("bench_noop", argv)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        seconds = asyncio.run(_measure(options.bootstrap, options.topic, options.records, folder))
    sys.stdout.write(json.dumps({"records": options.records, "seconds": seconds}) + "\n")
    return 0


async def _measure(bootstrap: str, topic: str, records: int, folder: str) -> float:
    app = faust.App(
        f"bench-{uuid.uuid4().hex}",
        broker=f"kafka://{bootstrap}",
        datadir=folder,
        topic_disable_leader=True,
        web_enabled=False,
    )
    done = asyncio.Event()
    times: list[float] = []

    @app.agent(app.topic(topic, key_type=bytes, value_type=bytes), name="noop")
    async def noop(stream: Any) -> None:
        count = 0
        async for _ in stream:
            count += 1
            if count == 1 or count == records:
                times.append(time.perf_counter())
            if count == records:
                done.set()

    await app.start()
    await done.wait()
    await app.stop()
    return times[-1] - times[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
