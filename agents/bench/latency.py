"""Time from produce to scored event, at a steady rate, through a worker of its own process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from agents.bench.machine import machine
from agents.bench.subject import (
    KEYS,
    SIZE,
    STEP_NS,
    STREAM,
    TOPIC,
    make_messages,
    make_pipeline,
    preload,
)
from connectors.broker import Broker
from schemas.config import Kafka


class Quantiles(msgspec.Struct, frozen=True):
    """Delays in ms."""

    p50: float
    p99: float
    max: float


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`measure_latency` found.

    ``scored`` is the time until the scored event of a record can be read; ``echo`` the time until
    a record can be read back from its own topic, without a worker on the machine.
    """

    rate: int
    seconds: int
    echo: Quantiles
    scored: Quantiles
    machine: str


def measure_latency(rate: int, seconds: int, say: Callable[[str], None]) -> Latency:
    """Fill the windows of all keys, then produce ``rate`` records/s for some seconds."""
    ids = list(range(KEYS)) * SIZE
    # up to now: a leap in event time would look like windows that are rare
    messages = make_messages(ids, time.time_ns() - len(ids) * STEP_NS)
    with Broker() as broker, tempfile.TemporaryDirectory(prefix="eddy-bench-") as folder:
        preload(Kafka(bootstrap=broker.bootstrap), messages)
        path = make_pipeline("all", broker.bootstrap, Path(folder), messages.values)
        say(f"windows of {KEYS:,} keys fill; then {rate:,} records/s for {seconds} s")
        options: dict[str, str | int] = {
            "bootstrap": broker.bootstrap,
            "topic": TOPIC,
            "rate": rate,
            "seconds": seconds,
        }
        run = [sys.executable, "-m", "agents", "run", str(path), "--port", "0"]
        worker = subprocess.Popen(run, stderr=subprocess.DEVNULL)  # noqa: S603 - our own module
        try:
            topic = f"bench-all.{STREAM}.scored"
            scored = _probe(options | {"read": topic, "field": "window_end", "skip": KEYS})
        finally:
            worker.terminate()
            worker.wait()
        echo = _probe(options | {"read": TOPIC, "field": "time", "skip": 0})
    return Latency(rate=rate, seconds=seconds, echo=echo, scored=scored, machine=machine())


def _probe(options: dict[str, str | int]) -> Quantiles:
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "connectors.kafka.bench_latency", *given]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - our own module
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Quantiles)
