"""Pipelines whose records come late, but not too late."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np

from agents.decode import Decoder
from agents.fitting import build_history, fit_route
from agents.pipeline import Pipeline
from connectors.base import flatten
from detectors.model import Model
from schemas import messages
from schemas.messages import ScoredEvent
from tests.pipelines import START_MS, config, fetch

LATENESS = 6
STREAMS: dict[str, dict[str, Any]] = {
    "tumbling": {"window": {"kind": "tumbling", "length": "10s"}},
    "hopping": {"window": {"kind": "hopping", "length": "12s", "hop": "4s"}},
    "session": {"window": {"kind": "session", "gap": "4s", "size": 4}},
    "session by id": {"window": {"kind": "session", "gap": "4s", "size": 4, "id": "session"}},
    "routed": {
        "window": {"kind": "session", "gap": "4s", "size": 4},
        "detectors": [{"detector": "pca", "when": {"country": ["DE"]}}],
    },
}
for _stream in STREAMS.values():
    _stream["lateness"] = f"{LATENESS}s"


def records(n: int, seed: int, odd: float = 0.0) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Records in the order of their time, and an order in which they come late but not too late."""
    rng = np.random.default_rng(seed)
    times = START_MS + np.cumsum(rng.integers(200, 2000, n))
    made = [
        {
            "card": f"card-{rng.integers(4)}",
            "session": f"s{i // 20}",
            "ts": int(times[i]),
            "amount": float(rng.normal(50, 5)) * (30 if rng.random() < odd else 1),
            "country": "AT" if rng.random() < 0.8 else "DE",
        }
        for i in range(n)
    ]
    delay = rng.integers(0, LATENESS * 1000, n) * (rng.random(n) < 0.4)
    return made, np.argsort(times + delay, kind="stable")


MODELS: dict[str, Model] = {}


def pipeline(kind: str, **changes: Any) -> Pipeline:
    made = config(**{**STREAMS[kind], **changes})
    if kind not in MODELS:
        stream = made.streams["payments"]
        decoder = Decoder("payments", stream, made.limits)
        past = [msgspec.json.encode(record) for record in records(2500, 99)[0]]
        history = build_history(stream, [decoder(fetch(list(past))).records])
        MODELS[kind] = fit_route("payments", stream, stream.routes[0], history)
    result = Pipeline(made, lambda: 0)
    result.apply("payments", "pca", MODELS[kind])
    return result


def run(made: Pipeline, values: list[dict[str, Any]], cuts: list[int]) -> list[Any]:
    outputs = []
    for a, b in itertools.pairwise([0, *sorted(cuts), len(values)]):
        part: list[bytes | None] = [msgspec.json.encode(value) for value in values[a:b]]
        outputs += flatten(made.process([fetch(part, first=a)]).outputs)
    return outputs + flatten(made.finish().outputs)


def events(outputs: list[Any]) -> list[ScoredEvent]:
    return [messages.decode(o.value, ScoredEvent) for o in outputs if o.topic == "payments.scored"]


def last(found: list[ScoredEvent]) -> dict[str, ScoredEvent]:
    newest = {event.event_id: event for event in found}  # they stand in order
    return {name: event for name, event in newest.items() if not event.retracted}
