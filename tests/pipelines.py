"""Small pipelines and fetches that several tests use."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import numpy as np

from agents.decode import Decoder
from agents.fitting import build_history, fit_route
from agents.pipeline import Pipeline
from connectors.base import Fetch, Partition
from schemas.config import Pipeline as Config
from schemas.parse import parse_pipeline

START_MS = 1_700_000_000_000
BASE: dict[str, Any] = {
    "streams": {
        "payments": {
            "source": {"topic": "payments"},
            "key": "card",
            "time": {"field": "ts"},
            "fields": {"amount": "number", "country": "category"},
            "window": {"kind": "sliding", "size": 4},
            "detectors": ["pca"],
        }
    }
}


def document(**changes: Any) -> dict[str, Any]:
    """The base document with changes to its stream."""
    result = copy.deepcopy(BASE)
    result["streams"]["payments"].update(changes)
    return result


def config(**changes: Any) -> Config:
    return parse_pipeline(document(**changes))


def payments(n: int, seed: int = 0, cards: int = 5, jitter_ms: int = 0) -> list[bytes]:
    """Records of a few cards, a second apart."""
    rng = np.random.default_rng(seed)
    return [
        msgspec.json.encode(
            {
                "card": f"card-{rng.integers(cards)}",
                "ts": START_MS + 1000 * i + int(rng.integers(-jitter_ms, jitter_ms + 1)),
                "amount": float(rng.normal(50, 5)),
                "country": "AT" if rng.random() < 0.9 else "DE",
            }
        )
        for i in range(n)
    ]


def fetch(values: list[bytes | None], partition: int = 0, first: int = 0) -> Fetch:
    n = len(values)
    return Fetch(
        Partition("payments", partition),
        np.arange(first, first + n),
        np.zeros(n, dtype=np.int64),
        [None] * n,
        values,
    )


def fitted(pipeline_config: Config, seed: int = 0) -> Pipeline:
    """A pipeline whose model was fitted on records of its own."""
    stream = pipeline_config.streams["payments"]
    decoder = Decoder("payments", stream, pipeline_config.limits)
    records = decoder(fetch(list(payments(3000, seed=99, jitter_ms=400)))).records
    model = fit_route("payments", stream, stream.routes[0], build_history(stream, [records]))
    pipeline = Pipeline(pipeline_config, lambda: 0)
    pipeline.apply("payments", stream.routes[0].label, model)
    return pipeline
