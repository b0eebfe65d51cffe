"""A pipeline that goes on from snapshots publishes what an undisturbed one does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents import decide, watch
from agents.account import RecentIds
from agents.decode import Decoder
from agents.fitting import build_history, fit_route
from agents.judge import Result
from agents.pipeline import Pipeline
from agents.snapshot import pack, unpack
from connectors.base import Fetch, Partition, flatten
from detectors.model import Model
from detectors.signals import Reference
from schemas.errors import ArtefactError, DataError
from schemas.messages import Account
from tests.alike import assert_alike, assert_same
from tests.pipelines import START_MS, config, fetch

RECORDS = 600
NUMBERS = {
    "amount": "number",
    "total": {"type": "number", "transform": "difference"},
    "bytes": {"type": "number", "transform": "rate"},
    "country": "category",
}
STREAMS: dict[str, dict[str, Any]] = {
    "sliding": {"window": {"kind": "sliding", "size": 4, "stride": 2}, "id": "id"},
    "derived": {
        "fields": NUMBERS,
        "derive": ["gap", "time_of_day"],
        "window": {"kind": "sliding", "size": 6},
    },
    "tumbling": {"window": {"kind": "tumbling", "length": "10s"}, "lateness": "1s"},
    "hopping": {
        "window": {"kind": "hopping", "length": "12s", "hop": "4s"},
        "lateness": "3s",
        "late": "dead_letter",
    },
    "session": {"window": {"kind": "session", "gap": "2s", "size": 2}, "lateness": "4s"},
    "session by id": {
        "window": {"kind": "session", "gap": "2s", "size": 5, "id": "session"},
        "lateness": "4s",
    },
    "single": {
        "window": {"kind": "sliding", "size": 1},
        "key": "none",
        "derive": ["gap"],
        "duplicates_within": 50,
    },
    "text": {"fields": {"amount": "number", "line": "text"}},
    "routes": {
        "detectors": ["pca", {"detector": "pca", "name": "DE", "when": {"country": ["DE"]}}],
        "derive": ["gap"],
    },
}
for _stream in STREAMS.values():
    _stream["alerts"] = {"budget_per_day": 20, "incident_gap": "2m"}
    if _stream.get("key") != "none":
        _stream["alerts"]["silence"] = {"key": "20s"}
    _stream["drift"] = {"false_alarm_every": 2_000, "settle": 30, "cooldown": "2m"}


@pytest.fixture(autouse=True, scope="module")
def short_memories() -> Iterator[None]:
    """Let everything that happens now and then happen within the few records of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decide, "BLOCK", 40)
        patch.setattr(watch, "BLOCK", 8)
        patch.setattr(watch, "REMEMBERED", 12)
        yield


def records(n: int, seed: int, *, changes: bool = True) -> list[bytes | None]:
    """Records with stragglers, repeated ids and bad lines; outliers and, halfway, a drift."""
    rng = np.random.default_rng(seed)
    values: list[bytes | None] = []
    for i in range(n):
        amount = rng.normal(80 if changes and i > n // 2 else 50, 5)
        odd = changes and rng.random() < 0.02
        record = {
            "card": f"card-{rng.integers(12)}",
            "id": f"{i - (5 if rng.random() < 0.1 else 0)}",
            "ts": START_MS + 1000 * i + int(rng.integers(-3000, 3001)),
            "amount": float(amount * 20 if odd else amount),
            "total": float(i + rng.normal()),
            "bytes": float(rng.gamma(2.0)),
            "country": "AT" if rng.random() < 0.7 else "DE",
            "session": f"session-{i // 40 + rng.integers(2)}",
            "line": f"user {rng.integers(99)} logged {'in' if rng.random() < 0.9 else 'out'}",
        }
        values.append(b"{" if rng.random() < 0.02 else msgspec.json.encode(record))
    return values


_MODELS: dict[tuple[str, int], dict[str, Model]] = {}


def models_of(kind: str, seed: int = 99) -> dict[str, Model]:
    """The models of a stream's routes, fitted once."""
    if (kind, seed) not in _MODELS:
        made = config(**STREAMS[kind])
        stream = made.streams["payments"]
        decoder = Decoder("payments", stream, made.limits)
        history = build_history(
            stream, [decoder(fetch(records(2500, seed, changes=False))).records]
        )
        _MODELS[kind, seed] = {
            route.label: fit_route("payments", stream, route, history) for route in stream.routes
        }
    return _MODELS[kind, seed]


def fresh(kind: str, seed: int = 99, **changes: Any) -> Pipeline:
    pipeline = Pipeline(config(**{**STREAMS[kind], **changes}), lambda: 0)
    for label, model in models_of(kind, seed).items():
        pipeline.apply("payments", label, model)
    return pipeline


def crashed(pipeline: Pipeline, kind: str) -> Pipeline:
    """A new pipeline that has nothing of the old one but the bytes of its snapshots."""
    again = Pipeline(pipeline.config, lambda: 0)
    for account in pipeline.accounts():
        partition = Partition(account.topic, account.partition)
        state = unpack(b"".join(pack(pipeline.snapshot(partition))))
        again.restore(partition, state, models_of(kind) if state["models"] else {})
    return again


def pieces(cuts: Sequence[int]) -> list[list[Fetch]]:
    """The records of two partitions, cut into fetches."""
    values = [records(RECORDS, seed) for seed in (1, 2)]
    return [
        [fetch(part[a:b], number, a) for number, part in enumerate(values)]
        for a, b in itertools.pairwise([0, *sorted(cuts), RECORDS])
    ]


def finish(pipeline: Pipeline, results: list[Result]) -> tuple[list[Any], list[Account]]:
    outputs = [o for result in [*results, pipeline.finish()] for o in flatten(result.outputs)]
    return outputs, pipeline.accounts()


@pytest.mark.parametrize("kind", STREAMS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cuts=st.lists(st.integers(1, RECORDS - 1), min_size=1, max_size=8),
    unfitted=st.booleans(),
)
def test_a_restored_pipeline_goes_on_as_if_nothing_had_happened(
    kind: str, cuts: list[int], unfitted: bool
) -> None:
    undisturbed, disturbed = fresh(kind), fresh(kind)
    if unfitted:
        undisturbed, disturbed = (Pipeline(undisturbed.config, lambda: 0) for _ in range(2))
    whole, parts = [], []
    for number, fetches in enumerate(pieces(cuts)):
        if number == 2:  # models that were fitted meanwhile
            for label, model in models_of(kind).items():
                undisturbed.apply("payments", label, model)
                disturbed.apply("payments", label, model)
        whole.append(undisturbed.process(fetches))
        parts.append(disturbed.process(fetches))
        disturbed = crashed(disturbed, kind)
        assert_same_state(undisturbed, disturbed)
    assert finish(disturbed, parts) == finish(undisturbed, whole)


def test_the_records_of_these_tests_show_all_there_is() -> None:
    """Equality means little where nothing happens."""
    ledgers, still_open, told = {}, 0, 0
    for kind in STREAMS:
        pipeline = fresh(kind)
        results = [pipeline.process(batch) for batch in pieces(range(50, RECORDS, 50))]
        topics = {output.topic for result in results for output in flatten(result.outputs)}
        assert topics == {
            *("payments.scored", "payments.alerts", "eddy.dead-letters", "eddy.retrain")
        }, kind
        ledgers[kind] = pipeline.totals()["payments"]
        for state in pipeline._states.values():
            still_open += sum(len(route.incidents._open) for route in state.routes.values())
            told += sum(len(route.told._known) for route in state.routes.values())
        if config(**STREAMS[kind]).streams["payments"].lateness:
            assert ledgers[kind].revisions
            values = [o.value for result in results for o in flatten(result.outputs)]
            assert any(b'"retracted":true' in value for value in values) == ("session" in kind)
    assert still_open
    assert told
    assert ledgers["sliding"].duplicate
    assert ledgers["sliding"].suppressed
    assert ledgers["tumbling"].late


# -- every attribute -------------------------------------------------------------------------


def assert_same_state(left: Pipeline, right: Pipeline) -> None:
    """Compare all that the partitions of two pipelines hold, by attribute and by snapshot."""
    assert list(left._states) == list(right._states)
    for partition in left._states:
        assert_same(left.snapshot(partition), right.snapshot(partition))
        assert_alike(left._states[partition], right._states[partition], "state")


# -- what a snapshot shares ------------------------------------------------------------------


@pytest.mark.parametrize("kind", STREAMS)
def test_a_snapshot_stays_as_it_is(kind: str) -> None:
    pipeline = fresh(kind)
    first, second = pieces([300])
    pipeline.process(first)
    state = pipeline.snapshot(Partition("payments", 0))
    packed = pack(state)
    pipeline.process(second)
    assert pack(state) == packed
    again = fresh(kind)
    again.restore(Partition("payments", 0), state, models_of(kind))
    again.process(second)
    again.finish()
    assert pack(state) == packed


def test_order_is_kept() -> None:
    ids, other_ids = RecentIds(3), RecentIds(3)
    assert [ids.fresh(i) for i in "abcd"] == [True] * 4
    other_ids.restore(ids.state())
    assert [other_ids.fresh(i) for i in "bac"] == [False, True, False]


# -- models ----------------------------------------------------------------------------------


def test_partitions_may_follow_different_models_until_their_barrier() -> None:
    old, new = models_of("sliding"), models_of("sliding", seed=98)
    assert old["pca"].model_id != new["pca"].model_id
    first, second, third = pieces([200, 400])
    before = fresh("sliding")
    before.process(first)
    pipeline = fresh("sliding", seed=98)
    pipeline.process(first[1:])
    pipeline.restore(Partition("payments", 0), before.snapshot(Partition("payments", 0)), old)

    def events(fetches: list[Fetch]) -> list[dict[str, Any]]:
        outputs = flatten(pipeline.process(fetches).outputs)
        return [msgspec.json.decode(o.value) for o in outputs if o.topic == "payments.scored"]

    mixed = events(second)
    assert [e["partition"] for e in mixed] == sorted(e["partition"] for e in mixed)
    by_partition = {(e["partition"], e["model_id"]) for e in mixed}
    assert by_partition == {(0, old["pca"].model_id), (1, new["pca"].model_id)}
    alone = [
        msgspec.json.decode(o.value)
        for o in flatten(before.process(second[:1]).outputs)
        if o.topic == "payments.scored"
    ]
    scores = [e["score"] for e in mixed if e["partition"] == 0]
    assert scores == pytest.approx([e["score"] for e in alone], rel=1e-5)
    pipeline.apply("payments", "pca", new["pca"])
    assert {e["model_id"] for e in events(third)} == {new["pca"].model_id}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"window": {"kind": "sliding", "size": 5}}, "window.size: 4 → 5"),
        ({"window": {"kind": "session", "size": 4}}, "window.kind: sliding → session"),
        ({"key": "session"}, "key: card → session"),
        ({"id": None}, "id: id → nothing"),
        (
            {"fields": {"amount": "number", "country": "text"}},
            "fields.country.type: category → text",
        ),
        ({"derive": ["gap"]}, "derive: [] → ['gap']"),
        (
            {"fields": {"country": "category", "amount": "number"}},
            "order of fields: ['amount', 'country'] → ['country', 'amount']",
        ),
    ],
)
def test_a_state_of_another_configuration_is_refused(changes: dict[str, Any], what: str) -> None:
    pipeline = fresh("sliding")
    pipeline.process(pieces([])[0])
    state = pipeline.snapshot(Partition("payments", 0))
    other = Pipeline(config(**{**STREAMS["sliding"], **changes}), lambda: 0)
    with pytest.raises(DataError, match=re.escape(f"streams.payments.{what}")):
        other.restore(Partition("payments", 0), state, models_of("sliding"))
    assert other.accounts() == []


def test_a_state_of_another_model_is_refused() -> None:
    pipeline = fresh("sliding")
    pipeline.process(pieces([])[0])
    state = pipeline.snapshot(Partition("payments", 0))
    for models in ({}, models_of("sliding", seed=98)):
        with pytest.raises(ArtefactError, match="payments/pca was made with model"):
            fresh("sliding").restore(Partition("payments", 0), state, models)


def test_budget_and_drift_may_change_under_a_state() -> None:
    pipeline = fresh("sliding")
    pipeline.process(pieces([])[0])
    state = pipeline.snapshot(Partition("payments", 0))
    other = fresh("sliding", alerts={"budget_per_day": 2}, drift={"enabled": False})
    other.restore(Partition("payments", 0), state, models_of("sliding"))
    route = other._states[Partition("payments", 0)].routes["pca"]
    before = pipeline._states[Partition("payments", 0)].routes["pca"]
    assert route.decider.threshold == pytest.approx(before.decider.threshold / 10)


def test_the_history_of_drift_tests_is_bounded() -> None:
    rng = np.random.default_rng(5)
    signal = watch._Signal("amount", Reference(0.0, 1.0), 100.0)
    for time, level in enumerate(rng.normal(np.arange(200) // 60, 1.0).tolist()):
        other = watch._Signal("amount", Reference(0.0, 1.0), 100.0)
        other.restore(signal.state())
        assert other.update(level, time) == signal.update(level, time)
        assert_same(other.state(), signal.state())
        assert len(signal._levels) <= 2 * watch.REMEMBERED
        assert [t.drift_detected for t in signal._tests] == [t.drift_detected for t in other._tests]
