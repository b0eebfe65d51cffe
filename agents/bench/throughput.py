"""Records/s of the worker beside its limits: stock faust, and bare fetch and decode."""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agents.decode import Decoder
from agents.fitting import build_history, fit_route
from agents.registry import Registry
from connectors.base import Fetch, Output, Partition
from connectors.broker import Broker
from connectors.kafka.admin import TopicSpec, ensure_topics
from connectors.kafka.health import Health
from connectors.kafka.publisher import Publisher
from connectors.storage import Storage
from schemas.config import Kafka
from schemas.parse import parse_pipeline

TOPIC = "bench"
KEYS = 10_000
NUMBERS = "abcdef"
NOOP_SHARE = 4  # stock faust is so slow that a quarter of the records tells enough
START_MS = 1_700_000_000_000


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Medians in records/s.

    ``faust_noop`` is a stock faust stream that does nothing, ``fetch_decode`` fetching and typed
    decoding into columns without faust, ``worker_anomalies`` and ``worker_all`` the whole worker
    with detector ``pca``, publishing anomalies or every scored event.
    """

    faust_noop: float
    fetch_decode: float
    worker_anomalies: float
    worker_all: float
    records: int
    repeats: int
    machine: str


def measure_throughput(records: int, repeats: int, say: Callable[[str], None]) -> Throughput:
    """Start a broker, fill a topic of 4 partitions, and run all four in turn."""
    values, keys = _messages(records)
    found: dict[str, list[float]] = {}
    with Broker() as broker, tempfile.TemporaryDirectory(prefix="eddy-bench-") as folder:
        kafka = Kafka(bootstrap=broker.bootstrap)
        ensure_topics(kafka, {TOPIC: TopicSpec(4)})
        asyncio.run(_fill(kafka, values, keys))
        say(f"{records:,} records stand in {TOPIC} at {broker.bootstrap}")
        pipelines = {
            mode: _pipeline(mode, broker.bootstrap, Path(folder), values)
            for mode in ("anomalies", "all")
        }
        noop = records // NOOP_SHARE
        options = ["--bootstrap", broker.bootstrap, "--topic", TOPIC, "--records"]
        commands = {
            "faust_noop": ["connectors.kafka.bench_noop", *options, str(noop)],
            "fetch_decode": ["connectors.kafka.bench_fetch", *options, str(records)],
            "worker_anomalies": ["agents.bench.worker", str(pipelines["anomalies"]), str(records)],
            "worker_all": ["agents.bench.worker", str(pipelines["all"]), str(records)],
        }
        for _ in range(repeats):
            for name, command in commands.items():
                rate = _rate(command)
                say(f"{name}: {rate:,.0f} records/s")
                found.setdefault(name, []).append(rate)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return Throughput(records=records, repeats=repeats, machine=machine, **medians)


def _messages(records: int) -> tuple[list[bytes], list[bytes]]:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(records, len(NUMBERS))).round(4).tolist()
    ids = rng.integers(0, KEYS, records).tolist()
    values = [
        msgspec.json.encode(
            {"key": f"key-{k}", "time": START_MS + i, **dict(zip(NUMBERS, row, strict=True))}
        )
        for i, (k, row) in enumerate(zip(ids, numbers, strict=True))
    ]
    return values, [f"key-{k}".encode() for k in ids]


def _document(mode: str, bootstrap: str, storage: str) -> dict[str, Any]:
    return {
        "name": f"bench-{mode}",
        "kafka": {"bootstrap": bootstrap},
        "storage": storage,
        "streams": {
            "bench": {
                "source": {"topic": TOPIC},
                "key": "key",
                "time": {"field": "time", "unit": "ms"},
                "fields": dict.fromkeys(NUMBERS, "number"),
                "window": {"kind": "sliding", "size": 16, "min_size": 16},
                "detectors": ["pca"],
                "emit": mode,
            }
        },
    }


def _pipeline(mode: str, bootstrap: str, folder: Path, values: list[bytes]) -> Path:
    """Write the pipeline file and fit its model on part of the records."""
    document = _document(mode, bootstrap, str(folder / mode))
    config = parse_pipeline(msgspec.json.decode(msgspec.json.encode(document)))
    stream = config.streams["bench"]
    n = min(len(values), 250_000)
    fetch = Fetch(
        Partition(TOPIC, 0), np.arange(n), np.zeros(n, dtype=np.int64), [None] * n, values[:n]
    )
    records = Decoder("bench", stream, config.limits)(fetch).records
    model = fit_route("bench", stream, stream.routes[0], build_history(stream, [records]))
    registry = Registry(Storage(config.storage))
    registry.promote("bench", "pca", registry.save(model))
    spec = {f"{config.name}.bench.{kind}": TopicSpec(4) for kind in ("scored", "alerts")}
    own = ("dead-letters", "retrain", "models", "accounts")
    ensure_topics(config.kafka, spec | {f"{config.name}.{name}": TopicSpec(1) for name in own})
    path = folder / f"{mode}.yaml"
    path.write_bytes(msgspec.json.encode(document))
    return path


async def _fill(kafka: Kafka, values: list[bytes], keys: list[bytes]) -> None:
    publisher = Publisher(kafka, Health(300.0))
    try:
        for at in range(0, len(values), 20_000):
            pairs = zip(keys[at : at + 20_000], values[at : at + 20_000], strict=True)
            await publisher.publish([Output(TOPIC, key, value) for key, value in pairs])
    finally:
        await publisher.stop()


def _rate(command: list[str]) -> float:
    arguments = [sys.executable, "-m", *command]
    done = subprocess.run(arguments, check=True, capture_output=True)  # noqa: S603 - our own modules
    facts = msgspec.json.decode(done.stdout.splitlines()[-1])
    return float(facts["records"] / facts["seconds"])
