"""The pipeline of a soak: its file, its topics and its model."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import msgspec

from agents.topics import pipeline_topics
from connectors.kafka.admin import ensure_topics
from schemas.parse import load_pipeline
from tests.chaos.schedule import PARTITIONS
from tests.chaos.setting import STREAM, Setting
from tests.soak.plan import Plan
from tests.soak.records import records
from tests.test_cli import eddy

TOPIC = "soak.in"
SAMPLE = 0.02
HISTORY, HISTORY_KEYS = 100_000, 2_000


def prepare(plan: Plan, bootstrap: str, folder: Path) -> Setting:
    """Write the pipeline file, make the topics and fit the model."""
    place = folder / plan.name
    place.mkdir()
    file, storage = place / "pipeline.json", place / "storage"
    name = f"soak-{plan.part}-{uuid.uuid4().hex[:6]}"
    file.write_bytes(msgspec.json.encode(_document(plan, name, bootstrap, storage)))
    config = load_pipeline(file)
    ensure_topics(config.kafka, pipeline_topics(config))
    _fit(plan, file, storage, folder)
    return Setting(config, file, storage)


def _fit(plan: Plan, file: Path, storage: Path, folder: Path) -> None:
    """Fit a model, or take the one of another part: both are judged by the same."""
    models = folder / "models"
    if not models.exists():
        past = folder / "history.jsonl"
        keys = min(plan.keys, HISTORY_KEYS)
        made = records(plan.seed + 1_000_000, HISTORY, keys, TOPIC, odd=0.0)
        past.write_bytes(b"\n".join(x.value for portion in made for x in portion))
        fitted = eddy("fit", file, "-i", past, timeout=600)
        if fitted.returncode:
            raise RuntimeError(fitted.stderr)
        shutil.copytree(storage / "models", models)
    else:
        shutil.copytree(models, storage / "models")


def _document(plan: Plan, name: str, bootstrap: str, storage: Path) -> dict[str, Any]:
    stream: dict[str, Any] = {
        "source": {"topic": TOPIC},
        "key": "card",
        "id": "number",
        "duplicates_within": 10_000,
        "time": {"field": "ts"},
        "fields": {"amount": "number", "country": "category", "balance": "number"},
        "derive": ["gap"],
        "window": {"kind": "sliding", "size": 16},
        "detectors": ["pca"],
        "alerts": {"budget_per_day": 500},
        "emit": {"mode": "sample", "sample": SAMPLE},
    }
    return {
        "name": name,
        "kafka": {"bootstrap": bootstrap},
        "storage": str(storage),
        "delivery": plan.delivery,
        "partitions": PARTITIONS,
        "streams": {STREAM: stream},
    }
