"""What the benchmarks run on: one topic of made-up records, and a pipeline that reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agents.decode import Decoder
from agents.fitting import build_history, fit_route
from agents.registry import Registry
from agents.topics import pipeline_topics
from connectors.base import Fetch, Output, Partition
from connectors.kafka.admin import TopicSpec, ensure_topics
from connectors.kafka.health import Health
from connectors.kafka.publisher import Publisher
from connectors.storage import Storage
from schemas.config import Kafka
from schemas.parse import parse_pipeline

TOPIC = "bench"
STREAM = "bench"
KEYS = 10_000
PARTITIONS = 4
NUMBERS = "abcdef"
SIZE = 16
FIT_ON = 250_000
BATCH = 20_000
START_NS = 1_700_000_000 * 10**9
STEP_NS = 10**6


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of a key, a time and numbers (6, unless told otherwise), and their Kafka keys."""

    values: list[bytes]
    keys: list[bytes]


def make_messages(
    ids: Sequence[int], start_ns: int = START_NS, numbers: str = NUMBERS, seed: int = 0
) -> Messages:
    """Make a message for each of ``ids``, the numbers of their entities; a millisecond apart."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(len(ids), len(numbers))).round(4).tolist()
    values = [
        msgspec.json.encode(
            {
                "key": f"key-{k}",
                "time": start_ns + i * STEP_NS,
                **dict(zip(numbers, row, strict=True)),
            }
        )
        for i, (k, row) in enumerate(zip(ids, rows, strict=True))
    ]
    return Messages(values, [f"key-{k}".encode() for k in ids])


def random_messages(records: int, keys: int = KEYS) -> Messages:
    """Make messages of some entities in random order."""
    return make_messages(np.random.default_rng(0).integers(0, keys, records).tolist())


def preload(kafka: Kafka, messages: Messages, partitions: int = PARTITIONS) -> None:
    """Make the topic and fill it."""
    ensure_topics(kafka, {TOPIC: TopicSpec(partitions)})
    asyncio.run(_fill(kafka, messages))


async def _fill(kafka: Kafka, messages: Messages) -> None:
    publisher = Publisher(kafka, Health(300.0))
    try:
        for at in range(0, len(messages.values), BATCH):
            pairs = zip(
                messages.keys[at : at + BATCH], messages.values[at : at + BATCH], strict=True
            )
            await publisher.publish([Output(TOPIC, key, value) for key, value in pairs])
    finally:
        await publisher.stop()


def document(
    emit: str,
    bootstrap: str,
    storage: str,
    delivery: str = "at_least_once",
    *,
    size: int = SIZE,
    numbers: str = NUMBERS,
    partitions: int = PARTITIONS,
) -> dict[str, Any]:
    """Make the pipeline file: sliding windows, detector ``pca``."""
    return {
        "name": f"bench-{emit}" if delivery == "at_least_once" else f"bench-{emit}-{delivery}",
        "kafka": {"bootstrap": bootstrap},
        "storage": storage,
        "delivery": delivery,
        "partitions": partitions,
        "streams": {
            STREAM: {
                "source": {"topic": TOPIC},
                "key": "key",
                "time": {"field": "time", "unit": "ns"},
                "fields": dict.fromkeys(numbers, "number"),
                "window": {"kind": "sliding", "size": size, "min_size": size},
                "detectors": ["pca"],
                "emit": emit,
            }
        },
    }


def make_pipeline(
    emit: str,
    bootstrap: str,
    folder: Path,
    values: list[bytes],
    delivery: str = "at_least_once",
) -> Path:
    """Write the pipeline file, make its topics, and fit its model on part of the messages."""
    name = f"{emit}-{delivery}"
    made = document(emit, bootstrap, str(folder / name), delivery)
    return set_up(made, folder / f"{name}.yaml", values)


def set_up(made: dict[str, Any], path: Path, values: list[bytes]) -> Path:
    """Write a pipeline file, make its topics, and fit its model on part of the messages."""
    config = parse_pipeline(msgspec.json.decode(msgspec.json.encode(made)))
    stream = config.streams[STREAM]
    n = min(len(values), FIT_ON)
    fetch = Fetch(
        Partition(TOPIC, 0), np.arange(n), np.zeros(n, dtype=np.int64), [None] * n, values[:n]
    )
    records = Decoder(STREAM, stream, config.limits)(fetch).records
    model = fit_route(STREAM, stream, stream.routes[0], build_history(stream, [records]))
    registry = Registry(Storage(config.storage))
    registry.promote(STREAM, "pca", registry.save(model))
    ensure_topics(config.kafka, pipeline_topics(config))
    path.write_bytes(msgspec.json.encode(made))
    return path
