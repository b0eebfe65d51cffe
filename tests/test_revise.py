"""What revised windows do to verdicts, incidents, accounts and models: nothing counts twice."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.decide import BLOCK, Decider
from agents.decode import Decoder
from agents.fitting import build_history, fit_route
from agents.pipeline import Pipeline
from agents.replay import Measure
from agents.revise import REMEMBERED, Anomaly, Told
from detectors.model import Model
from schemas import messages
from schemas.messages import DeadLetter, Incident, ScoredEvent
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


_MODELS: dict[str, Model] = {}


def pipeline(kind: str, **changes: Any) -> Pipeline:
    made = config(**{**STREAMS[kind], **changes})
    if kind not in _MODELS:
        stream = made.streams["payments"]
        decoder = Decoder("payments", stream, made.limits)
        past = [msgspec.json.encode(record) for record in records(2500, 99)[0]]
        history = build_history(stream, [decoder(fetch(list(past))).records])
        _MODELS[kind] = fit_route("payments", stream, stream.routes[0], history)
    result = Pipeline(made, lambda: 0)
    result.apply("payments", "pca", _MODELS[kind])
    return result


def run(made: Pipeline, values: list[dict[str, Any]], cuts: list[int]) -> list[Any]:
    outputs = []
    for a, b in itertools.pairwise([0, *sorted(cuts), len(values)]):
        part: list[bytes | None] = [msgspec.json.encode(value) for value in values[a:b]]
        outputs += made.process([fetch(part, first=a)]).outputs
    return outputs + made.finish().outputs


def events(outputs: list[Any]) -> list[ScoredEvent]:
    return [messages.decode(o.value, ScoredEvent) for o in outputs if o.topic == "payments.scored"]


def last(found: list[ScoredEvent]) -> dict[str, ScoredEvent]:
    newest = {event.event_id: event for event in found}  # they stand in order
    return {name: event for name, event in newest.items() if not event.retracted}


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


def test_what_a_revision_finds_goes_to_an_incident_once() -> None:
    values, _ = records(200, 5)
    clock = values[-1]["ts"] // 10_000 * 10_000 + 100_000
    key = {**values[0], "card": "card-9"}
    late = [
        {**key, "ts": clock + 1000, "amount": 50.0},
        {**key, "ts": clock + 11_000, "amount": 50.0, "card": "card-8"},
        {**key, "ts": clock + 2000, "amount": 5000.0},  # makes an anomaly of it
        {**key, "ts": clock + 3000, "amount": 5000.0},
    ]
    made = pipeline("tumbling", alerts={"budget_per_day": 50})
    outputs = run(made, [*values, *late], [])
    mine = [e for e in events(outputs) if e.key == "card-9"]
    assert [(e.revision, e.is_anomaly) for e in mine] == [(0, False), (1, True), (2, True)]
    assert len({e.event_id for e in mine}) == 1
    assert mine[1].incident_id is not None
    assert mine[1].incident_id == mine[2].incident_id
    assert mine[2].contributions
    alerts = [messages.decode(o.value, Incident) for o in outputs if o.topic == "payments.alerts"]
    closed = [i for i in alerts if i.incident_id == mine[1].incident_id and i.state == "closed"]
    assert [(i.events, i.key_count) for i in closed] == [(1, 1)]


def test_what_a_revision_takes_back_is_published_and_leaves_the_incident_alone() -> None:
    values, _ = records(200, 5)
    clock = values[-1]["ts"] // 10_000 * 10_000 + 100_000
    key = {**values[0], "card": "card-9"}
    late = [
        {**key, "ts": clock + 1000, "amount": 400.0},
        {**key, "ts": clock + 11_000, "amount": 50.0, "card": "card-8"},
        *({**key, "ts": clock + 2000 + i, "amount": 50.0} for i in range(300)),
    ]
    made = pipeline("session", emit="anomalies", alerts={"budget_per_day": 50})
    outputs = run(made, [*values, *late], [])
    mine = [e for e in events(outputs) if e.key == "card-9"]
    assert mine[0].is_anomaly
    assert [e.revision for e in mine] == list(range(301))
    alerts = [messages.decode(o.value, Incident) for o in outputs if o.topic == "payments.alerts"]
    closed = [i for i in alerts if i.incident_id == mine[0].incident_id and i.state == "closed"]
    assert [i.events for i in closed] == [1]


def test_a_merged_session_is_known_for_the_anomaly_that_it_swallows() -> None:
    values, _ = records(200, 5)
    clock = values[-1]["ts"] + 100_000
    key = {**values[0], "card": "card-9"}
    late = [
        {**key, "ts": clock + 1000, "amount": 5000.0},
        {**key, "ts": clock + 6000, "amount": 50.0, "card": "card-8"},
        {**key, "ts": clock + 500, "amount": 5000.0},
    ]
    made = pipeline("session", emit="anomalies", alerts={"budget_per_day": 50})
    mine = [e for e in events(run(made, [*values, *late], [])) if e.key == "card-9"]
    told = [(e.revision, e.retracted, e.is_anomaly, e.window_start // 10**6 - clock) for e in mine]
    assert told == [
        (0, False, True, 1000),
        (1, True, False, 1000),
        (0, False, True, 500),
    ]
    assert mine[0].incident_id == mine[2].incident_id is not None
    assert made.totals()["payments"].incidents == 1


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
        made.apply("payments", "pca", _MODELS["session"])
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
