"""The pipeline of a run: its file, its topics, its models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agents.decode import Decoder
from agents.fitting import build_history, fit_route
from agents.registry import Registry
from agents.topics import pipeline_topics
from connectors.base import Fetch, Partition
from connectors.kafka.admin import ensure_topics
from connectors.storage import Storage
from detectors.model import Model
from schemas.config import Kafka
from schemas.config import Pipeline as Config
from schemas.parse import load_pipeline
from schemas.topics import Topics
from tests.chaos.records import LARGE, history
from tests.chaos.schedule import NODES, PARTITIONS, Schedule
from tests.test_cli import eddy

STREAM = "payments"
ATTEMPTS = 20


@dataclass(frozen=True)
class Setting:
    """A pipeline that is ready to run."""

    config: Config
    file: Path
    storage: Path

    @property
    def topic(self) -> str:
        """The input topic."""
        return self.config.streams[STREAM].source.topic

    @property
    def topics(self) -> Topics:
        """Names of the others."""
        return Topics(self.config.name)

    @property
    def group(self) -> str:
        """The consumer group of the workers."""
        return self.topics.worker_group

    @property
    def route(self) -> str:
        """Label of the only route."""
        return self.config.streams[STREAM].routes[0].label

    @property
    def registry(self) -> Registry:
        """Where the models are."""
        return Registry(Storage(self.config.storage))


def prepare(
    schedule: Schedule, name: str, bootstrap: str, workers_bootstrap: str, folder: Path
) -> Setting:
    """Write the pipeline file, create the topics and fit the first model."""
    file, past = folder / "pipeline.json", folder / "history.jsonl"
    storage = folder / "storage"
    file.write_bytes(msgspec.json.encode(_document(schedule, name, workers_bootstrap, storage)))
    past.write_bytes(b"\n".join(history(schedule.seed)))
    config = load_pipeline(file)
    _create_topics(config, Kafka(bootstrap=bootstrap, replication=NODES))
    fitted = eddy("fit", file, "-i", past)
    if fitted.returncode:
        raise RuntimeError(fitted.stderr)
    return Setting(config, file, storage)


def second_model(setting: Setting, seed: int) -> Model:
    """Fit another model of the same route, on another history; nobody hears of it yet."""
    stream = setting.config.streams[STREAM]
    values = history(seed + 1_000_000)
    count = len(values)
    fetch = Fetch(
        Partition(setting.topic, 0),
        np.arange(count),
        np.zeros(count, dtype=np.int64),
        [None] * count,
        values,
    )
    records = Decoder(STREAM, stream, setting.config.limits)(fetch).records
    return fit_route(STREAM, stream, stream.routes[0], build_history(stream, [records]), seed=1)


def _create_topics(config: Config, kafka: Kafka) -> None:
    """Create the topics, asking again while some broker has not heard of all of them."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ensure_topics(kafka, pipeline_topics(config))
        except KeyError:
            if attempt == ATTEMPTS:
                raise
        else:
            return


def _document(schedule: Schedule, name: str, bootstrap: str, storage: Path) -> dict[str, Any]:
    sliding = schedule.window["kind"] == "sliding"
    stream: dict[str, Any] = {
        "source": {"topic": f"{name}.in"},
        "key": schedule.key,
        "id": "number",
        "duplicates_within": 2_000,
        "time": {"field": "ts"},
        "fields": {"amount": "number", "country": "category"},
        "derive": ["gap"] if sliding and schedule.key != "none" else [],
        "window": schedule.window,
        "detectors": [{"detector": schedule.detector, "update_every": schedule.update_every}],
        "alerts": {"budget_per_day": 40},
        "drift": {"settle": 200, "cooldown": "1h"},
        "archive": schedule.archive,
    }
    return {
        "name": name,
        "kafka": {"bootstrap": bootstrap, "replication": NODES},
        "storage": str(storage),
        "delivery": schedule.delivery,
        "partitions": PARTITIONS,
        "scoring": {"batch": schedule.batch},
        "limits": {"message_bytes": LARGE},
        "checkpoints": {"every": f"{schedule.checkpoint_seconds}s"},
        "streams": {STREAM: stream},
    }
