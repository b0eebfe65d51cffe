"""Records/s of the worker beside its limits: stock faust, and bare fetch and decode."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from agents.bench.machine import machine
from agents.bench.subject import TOPIC, make_pipeline, preload, random_messages
from connectors.broker import Broker
from schemas.config import Kafka

NOOP_SHARE = 4  # stock faust is so slow that a quarter of the records tells enough


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Medians in records/s.

    ``faust_noop`` is a stock faust stream that does nothing, ``fetch_decode`` fetching and typed
    decoding into columns without faust, ``worker_anomalies`` and ``worker_all`` the whole worker
    with detector ``pca``, publishing anomalies or every scored event, and ``worker_exactly_once``
    the same with every scored event in transactions.
    """

    faust_noop: float
    fetch_decode: float
    worker_anomalies: float
    worker_all: float
    worker_exactly_once: float
    records: int
    repeats: int
    machine: str


def measure_throughput(records: int, repeats: int, say: Callable[[str], None]) -> Throughput:
    """Start a broker, fill a topic of 4 partitions, and run them all in turn."""
    messages = random_messages(records)
    found: dict[str, list[float]] = {}
    with Broker() as broker, tempfile.TemporaryDirectory(prefix="eddy-bench-") as folder:
        preload(Kafka(bootstrap=broker.bootstrap), messages)
        say(f"{records:,} records stand in {TOPIC} at {broker.bootstrap}")
        modes = {
            "worker_anomalies": ("anomalies", "at_least_once"),
            "worker_all": ("all", "at_least_once"),
            "worker_exactly_once": ("all", "exactly_once"),
        }
        workers = {
            name: make_pipeline(emit, broker.bootstrap, Path(folder), messages.values, delivery)
            for name, (emit, delivery) in modes.items()
        }
        noop = records // NOOP_SHARE
        options = ["--bootstrap", broker.bootstrap, "--topic", TOPIC, "--records"]
        commands = {
            "faust_noop": ["connectors.kafka.bench_noop", *options, str(noop)],
            "fetch_decode": ["connectors.kafka.bench_fetch", *options, str(records)],
        }
        for name, path in workers.items():
            commands[name] = ["agents.bench.worker", str(path), str(records)]
        for _ in range(repeats):
            for name, command in commands.items():
                rate = rate_of(command)
                say(f"{name}: {rate:,.0f} records/s")
                found.setdefault(name, []).append(rate)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    return Throughput(records=records, repeats=repeats, machine=machine(), **medians)


def rate_of(command: list[str]) -> float:
    """Run a module of ours that prints records and seconds; return records/s."""
    arguments = [sys.executable, "-m", *command]
    done = subprocess.run(arguments, check=True, capture_output=True)  # noqa: S603 - our own modules
    facts = msgspec.json.decode(done.stdout.splitlines()[-1])
    return float(facts["records"] / facts["seconds"])
