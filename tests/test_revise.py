"""What revised windows do to verdicts, accounts and models: nothing counts twice."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.archiving import Quarantine
from agents.decide import BLOCK, Decider
from agents.decode import Decoder
from agents.fitting import build_history
from agents.measure import Measure
from agents.pipeline import Pipeline
from agents.revise import REMEMBERED, Anomaly, Told
from connectors.base import flatten
from schemas import messages
from schemas.messages import DeadLetter, Incident
from tests.pipelines import config, fetch
from tests.revising import LATENESS, MODELS, STREAMS, events, last, pipeline, records, run


@pytest.mark.parametrize("kind", STREAMS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_late_records_change_no_last_score(kind: str, seed: int, cuts: list[int]) -> None:
    values, order = records(200, seed)
    wanted = last(events(run(pipeline(kind), values, [])))
    late = pipeline(kind)
    found = last(events(run(late, [values[i] for i in order], cuts)))
    ledger = late.totals()["payments"]
    assert ledger.late == 0
    assert ledger.revisions > 0
    assert set(found) == set(wanted)
    for name, event in found.items():
        other = wanted[name]
        for what in ("key", "window_start", "window_end", "records"):
            assert getattr(event, what) == getattr(other, what)
        assert event.score == pytest.approx(other.score, rel=1e-5, abs=1e-6)


def seen(
    made: Pipeline, values: list[dict[str, Any]], cuts: list[int]
) -> tuple[list[float], list[Any]]:
    """Scores, and what came of them: events and suspects in order, the last of incidents."""
    outputs, suspects = [], []
    for a, b in itertools.pairwise([0, *sorted(cuts), len(values)]):
        part: list[bytes | None] = [msgspec.json.encode(value) for value in values[a:b]]
        result = made.process([fetch(part, first=a)])
        outputs += flatten(result.outputs)
        suspects += [row for _, _, table in result.quarantine for row in table.to_pylist()]
    outputs += flatten(made.finish().outputs)
    found = [
        (e.event_id, e.revision, e.retracted, e.is_anomaly, e.incident_id) for e in events(outputs)
    ]
    scores = [e.score for e in events(outputs)]
    alerts = [messages.decode(o.value, Incident) for o in outputs if o.topic == "payments.alerts"]
    incidents = {i.incident_id: (i.state, i.events, i.first_event, i.last_event) for i in alerts}
    late = sorted(o.value for o in outputs if o.topic == "eddy.dead-letters")
    return scores, [found, suspects, incidents, late, made.totals()]


@pytest.mark.parametrize("kind", STREAMS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    emit=st.sampled_from(["all", "anomalies", "sample"]),
)
def test_what_is_made_of_revisions_does_not_depend_on_fetches(
    kind: str, seed: int, cuts: list[int], emit: str
) -> None:
    values, _ = records(200, seed, odd=0.05)
    times = np.array([value["ts"] for value in values])
    too_late = np.random.default_rng(seed).integers(0, 2 * LATENESS * 1000, 200)
    arrival = [values[i] for i in np.argsort(times + too_late, kind="stable")]
    changes = {
        "emit": emit,
        "late": "dead_letter",
        "alerts": {"budget_per_day": 40, "incident_gap": "20s"},
    }
    scores, whole = seen(pipeline(kind, **changes), arrival, [])
    found, pieces = seen(pipeline(kind, **changes), arrival, cuts)
    assert found == pytest.approx(scores, rel=1e-5, abs=1e-6)
    assert pieces == whole


@pytest.mark.parametrize("kind", ["tumbling", "session"])
def test_suspect_is_what_the_last_revision_says(kind: str) -> None:
    values, order = records(400, 21, odd=0.05)
    arrival = [values[i] for i in order]
    made = pipeline(kind)
    everything: list[bytes | None] = [msgspec.json.encode(value) for value in arrival]
    result = made.process([fetch(everything)])
    more = made.finish()
    suspects = pa.concat_tables(t for r in (result, more) for _, _, t in r.quarantine)
    found = last(events(flatten(result.outputs) + flatten(more.outputs)))
    stream = made.config.streams["payments"]
    decoder = Decoder("payments", stream, made.config.limits)
    history = build_history(
        stream, [decoder(fetch(everything)).records], quarantine=Quarantine(suspects)
    )
    assert len(history.suspect) == len(found)
    assert history.suspect.sum() == sum(event.is_anomaly for event in found.values()) > 0


@pytest.mark.parametrize("kind", STREAMS)
def test_windows_count_once(kind: str) -> None:
    values, order = records(400, 3, odd=0.05)
    made = pipeline(kind)
    found = events(run(made, [values[i] for i in order], [100, 200]))
    ledger = made.totals()["payments"]
    if kind != "routed":
        assert ledger.windows == ledger.scored == len(found) - ledger.revisions
    ever = {event.event_id for event in found if event.is_anomaly}
    assert 0 < ledger.anomalies <= len(ever)


def test_late_records_are_dead_letters_if_asked_for() -> None:
    values, _ = records(50, 7)
    old = {**values[0], "ts": values[-1]["ts"] - 60_000}
    for late, count in (("count", 0), ("dead_letter", 1)):
        made = pipeline("tumbling", late=late)
        outputs = run(made, [*values, old], [])
        letters = [
            messages.decode(o.value, DeadLetter) for o in outputs if o.topic == "eddy.dead-letters"
        ]
        assert [(d.reason, d.detail, d.offset) for d in letters] == [
            ("late", "60 s behind the newest event time", 50)
        ][:count]
        ledger = made.totals()["payments"]
        assert ledger.balanced
        assert (ledger.late, ledger.dead_letter) == (1, 0)
        assert all(msgspec.json.decode(d.original) == old for d in letters)


def test_revisions_teach_the_calibration_nothing() -> None:
    rng = np.random.default_rng(0)
    n = 3 * BLOCK
    scores = rng.normal(size=n)
    times = np.arange(n) * 10**9
    partial = rng.random(n) < 0.3
    calibration = {"full": rng.normal(size=500), "partial": rng.normal(size=500)}
    alone, mixed = Decider(calibration, 100.0, 5.0), Decider(calibration, 100.0, 5.0)
    wanted = alone(scores, times, partial)
    at = np.sort(rng.integers(0, n, 2000))  # revisions between them
    revised = np.insert(np.zeros(n, dtype=bool), at, True)
    scores, times = np.insert(scores, at, 9.0), np.insert(times, at, 0)
    partial, cut = np.insert(partial, at, True), len(revised) // 2
    found = [
        mixed(scores[part], times[part], partial[part], revised[part]).p_value
        for part in (slice(0, cut), slice(cut, None))
    ]
    np.testing.assert_array_equal(np.concatenate(found)[~revised], wanted.p_value)
    assert mixed.threshold == alone.threshold


def test_models_are_fitted_on_the_last_revisions() -> None:
    values, order = records(300, 11)
    made = config(**STREAMS["session"])
    stream = made.streams["payments"]
    decoder = Decoder("payments", stream, made.limits)

    def history(these: list[dict[str, Any]]) -> list[Any]:
        found = build_history(
            stream, [decoder(fetch([msgspec.json.encode(v) for v in these])).records]
        ).windows
        content = zip(found.time.tolist(), found.num.tolist(), found.cat.tolist(), strict=True)
        return sorted(content, key=str)

    assert history([values[i] for i in order]) == history(values)


def test_measures_are_of_the_last_revisions() -> None:
    values, order = records(300, 12, odd=0.1)
    results = []
    for arrival in (range(300), order.tolist()):
        made = pipeline("session")
        made = Pipeline(made.config, lambda: 0, label="odd")
        made.apply("payments", "pca", MODELS["session"])
        made.observe = measure = Measure()
        run(made, [{**values[i], "odd": values[i]["amount"] > 500} for i in arrival], [150])
        results.append(measure.results()["payments/pca"])
    for name in ("roc_auc", "average_precision"):
        assert results[0][name] == pytest.approx(results[1][name], abs=1e-6)


def test_what_was_told_is_bounded_and_kept() -> None:
    told = Told()
    for i in range(REMEMBERED + 5):
        told.put(str(i), Anomaly("k", i, i + 1, None, surge=False))
    assert "4" not in told
    assert "5" in told
    told.retract("7")
    again = Told()
    again.restore(told.state())
    for book in (told, again):
        found = book.find("new", "k", 6, 9)
        assert found is not None
        assert (found.start, found.end, found.retracted) == (6, 9, False)
        assert book.find("other", "j", 6, 9) is None
    assert again.state() == told.state()
