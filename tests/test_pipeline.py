"""The pipeline's outputs follow from the records alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.pipeline import Pipeline
from connectors.base import Fetch, flatten
from schemas import messages
from schemas.messages import DeadLetter, ScoredEvent
from tests.pipelines import config, document, fetch, fitted, payments

WINDOWS: dict[str, dict[str, Any]] = {
    "sliding": {"window": {"kind": "sliding", "size": 4, "stride": 2}},
    "tumbling": {"window": {"kind": "tumbling", "length": "10s"}, "lateness": "1s"},
    "hopping": {"window": {"kind": "hopping", "length": "12s", "hop": "4s"}, "lateness": "3s"},
    "session": {"window": {"kind": "session", "gap": "6s", "size": 8}, "lateness": "5s"},
}


def run(pipeline: Pipeline, batches: Sequence[list[Fetch]]) -> list[Any]:
    """Return what was published, in a form that can be compared."""
    outputs = [o for batch in batches for o in flatten(pipeline.process(batch).outputs)]
    outputs += flatten(pipeline.finish().outputs)
    return outputs


def events(outputs: Sequence[Any], topic: str = "payments.scored") -> list[ScoredEvent]:
    return [messages.decode(o.value, ScoredEvent) for o in outputs if o.topic == topic]


def assert_same(left: list[ScoredEvent], right: list[ScoredEvent]) -> None:
    for name in ("event_id", "revision", "retracted"):
        assert [getattr(e, name) for e in left] == [getattr(e, name) for e in right]
    for a, b in zip(left, right, strict=True):
        assert a.score == pytest.approx(b.score, rel=1e-5, abs=1e-6)
        assert a.p_value == pytest.approx(b.p_value, rel=1e-3, abs=2e-3)
        assert (a.window_start, a.window_end, a.records) == (
            b.window_start,
            b.window_end,
            b.records,
        )


@pytest.mark.parametrize("kind", WINDOWS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cuts=st.lists(st.integers(0, 300), max_size=12), others=st.booleans())
def test_outputs_do_not_depend_on_fetches_or_other_partitions(
    kind: str, cuts: list[int], others: bool
) -> None:
    made = config(**WINDOWS[kind])
    values = payments(300, seed=1, jitter_ms=4000)
    whole = run(fitted_once(kind), [[fetch(list(values))]])
    edges = [0, *sorted(cuts), 300]
    batches = []
    for a, b in itertools.pairwise(edges):
        batch = [fetch(list(values[a:b]), first=a)]
        if others:
            batch.append(fetch(list(payments(b - a, seed=a)), partition=1, first=a))
        batches.append(batch)
    pieces = run(fitted_once(kind), batches)
    mine = [e for e in events(pieces) if e.partition == 0]
    # at the end of the input all windows are closed, partition by partition
    assert_same(events(whole), mine)
    assert made.streams["payments"].window


_MODELS: dict[str, Any] = {}


def fitted_once(kind: str) -> Pipeline:
    """A fresh pipeline with the model of an earlier one."""
    made = config(**WINDOWS[kind])
    if kind not in _MODELS:
        _MODELS[kind] = fitted(made)._models["payments", "pca"]
    pipeline = Pipeline(made, lambda: 0)
    pipeline.apply("payments", "pca", _MODELS[kind])
    return pipeline


@pytest.mark.parametrize("kind", WINDOWS)
def test_every_record_has_one_fate(kind: str) -> None:
    pipeline = fitted_once(kind)
    values: list[bytes | None] = list(payments(500, seed=3, jitter_ms=9000))
    values[7:7] = [None, b"", b"{", b'{"card": "x"}']
    run(pipeline, [[fetch(values)]])
    ledger = pipeline.totals()["payments"]
    assert ledger.balanced
    assert (ledger.records_in, ledger.dead_letter, ledger.filtered) == (504, 3, 1)


def test_bad_lines_change_nothing_for_good_records() -> None:
    clean = payments(400, seed=5)
    bad = [b"{", b"", b"\xff", b"[]", b'{"card": null, "ts": 1}', b"9" * 2_000_000]
    mixed: list[bytes | None] = []
    for i, value in enumerate(clean):
        if i % 8 == 0:
            mixed.append(bad[i // 8 % len(bad)])
        mixed.append(value)
    undisturbed = run(fitted_once("sliding"), [[fetch(list(clean))]])
    disturbed = run(fitted_once("sliding"), [[fetch(mixed)]])

    def seen(outputs: list[Any]) -> list[tuple[Any, ...]]:
        return [(e.key, e.window_start, e.window_end, e.score, e.p_value) for e in events(outputs)]

    assert seen(disturbed) == seen(undisturbed)
    letters = [
        messages.decode(o.value, DeadLetter) for o in disturbed if o.topic == "eddy.dead-letters"
    ]
    assert len(letters) == 50
    assert all(letter.reason and letter.detail for letter in letters)


def test_duplicates_are_dropped_by_id_only() -> None:
    made = config(id="card")  # every record of a card looks like the same one
    pipeline = Pipeline(made, lambda: 0)
    pipeline.process([fetch(list(payments(100)))])
    ledger = pipeline.totals()["payments"]
    assert (ledger.windowed, ledger.duplicate) == (5, 95)


def test_without_a_model_windows_are_counted_and_one_is_asked_for() -> None:
    pipeline = Pipeline(config(), lambda: 0)
    outputs = run(pipeline, [[fetch(list(payments(2500)))]])
    requests = [msgspec.json.decode(o.value) for o in outputs if o.topic == "eddy.retrain"]
    assert [r["reason"] for r in requests] == ["missing"]
    assert pipeline.totals()["payments"].unscored > 2000
    assert not events(outputs)


def test_an_outlier_opens_an_explained_incident() -> None:
    pipeline = fitted_once("sliding")
    values: list[bytes | None] = list(payments(600, seed=6))
    odd = msgspec.json.decode(values[500] or b"")
    values[500] = msgspec.json.encode({**odd, "amount": 900.0})
    outputs = run(pipeline, [[fetch(values)]])
    opened = [msgspec.json.decode(o.value) for o in outputs if o.topic == "payments.alerts"]
    assert any(i["keys"] == [odd["card"]] and i["top"][0]["field"] == "amount" for i in opened)
    assert {i["state"] for i in opened} >= {"open", "closed"}


def test_sensitive_values_do_not_leave() -> None:
    fields = {"amount": {"type": "number", "sensitive": True}, "country": "category"}
    pipeline = fitted(config(fields=fields))
    values: list[bytes | None] = list(payments(600, seed=6))
    odd = msgspec.json.decode(values[500] or b"")
    values[500] = msgspec.json.encode({**odd, "amount": 98765.0})
    outputs = run(pipeline, [[fetch(values)]])
    assert any(b"(redacted)" in o.value for o in outputs)
    assert not any(b":98765.0" in o.value or b" 98765" in o.value for o in outputs)


def test_document_helper_changes_the_stream() -> None:
    assert document(key="x")["streams"]["payments"]["key"] == "x"
