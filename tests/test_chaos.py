"""The chaos suite's short form, and proof that its law check notices what it is there for."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from schemas.messages import Account, ScoredEvent
from tests.chaos.cluster import Cluster
from tests.chaos.law import judge
from tests.chaos.published import Published
from tests.chaos.records import stream
from tests.chaos.run import run
from tests.chaos.schedule import DELIVERIES, KINDS, Fault, Schedule, make

SHORT = Schedule(
    name="short",
    seed=1,
    kind="none",
    records=6_000,
    pace=800,
    window={"kind": "sliding", "size": 4},
    detector="pca",
)
FAULTS = {
    "undisturbed": (),
    "a kill": (Fault(kind="kill", at=0.4, worker=1),),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.mark.broker
@pytest.mark.own_broker
@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_faults_do_not_show(
    cluster: Cluster, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    schedule = msgspec.structs.replace(SHORT, faults=FAULTS[name])
    outcome = run(schedule, cluster, tmp_path)
    assert outcome.green, msgspec.json.format(msgspec.json.encode(outcome)).decode()
    assert outcome.verdict.expected > 5_000
    assert all(seconds is not None for _, seconds in outcome.recoveries)


def test_a_schedule_follows_from_its_seed() -> None:
    seeds = range(2 * len(KINDS))
    assert [make(seed) for seed in seeds] == [make(seed) for seed in seeds]
    assert {make(seed).kind for seed in seeds} == set(KINDS)
    met = {(schedule.kind, schedule.delivery) for schedule in map(make, seeds)}
    assert met == set(itertools.product(KINDS, DELIVERIES))
    assert list(stream(make(3))) == list(stream(make(3)))


def event(number: int, **changes: object) -> ScoredEvent:
    made = ScoredEvent(
        event_id=f"e{number}",
        stream="s",
        route="pca",
        key="k",
        window_start=number,
        window_end=number + 1,
        topic="t",
        partition=number % 2,
        first_offset=number,
        last_offset=number,
        records=4,
        score=1.0 + number,
        p_value=0.5,
        threshold=0.001,
        is_anomaly=False,
        detector="pca",
        model_id="m",
        processed_at=0,
        latency_ns=0,
        event_latency_ns=0,
    )
    return msgspec.structs.replace(made, **changes)


def account(partition: int, records: int) -> Account:
    counts = dict.fromkeys(Account.__struct_fields__, 0)
    counts |= {"partition": partition, "records_in": records, "windowed": records}
    return msgspec.convert({**counts, "schema_version": 1, "stream": "s", "topic": "t"}, Account)


def good() -> Published:
    return Published(scored=[event(i) for i in range(10)], accounts=[account(0, 5), account(1, 5)])


BREACHES: dict[str, tuple[Callable[[Published], object], int, int]] = {
    "an event is missing": (lambda x: x.scored.pop(), 1, 0),
    "an event too many": (lambda x: x.scored.append(event(99)), 0, 1),
    "another score": (lambda x: x.scored.append(event(3, score=4.0001)), 0, 1),
    "another p-value": (lambda x: x.scored.append(event(3, p_value=0.502)), 0, 1),
    "another threshold": (lambda x: x.scored.append(event(3, threshold=0.00101)), 0, 1),
    "another model": (lambda x: x.scored.append(event(3, model_id="n")), 0, 1),
    "another verdict": (lambda x: x.scored.append(event(3, is_anomaly=True, records=5)), 0, 1),
    "no account": (lambda x: x.accounts.pop(), 1, 0),
    "an old account at last": (lambda x: x.accounts.append(account(1, 4)), 0, 1),
}


@pytest.mark.parametrize("name", BREACHES)
def test_breaches_of_the_law_are_noticed(name: str) -> None:
    spoil, lost, wrong = BREACHES[name]
    seen = copy.deepcopy(good())
    spoil(seen)
    verdict = judge(good(), seen, lambda _: 0.001)
    assert (verdict.lost, verdict.wrong) == (lost, wrong)
    assert not verdict.holds


def test_what_the_law_allows_is_counted() -> None:
    seen = good()
    near = {"score": 4.0 + 1e-5, "p_value": 0.5005, "processed_at": 7}
    seen.scored += [event(3, **near), event(4, is_anomaly=True, incident_id="i")]
    verdict = judge(good(), seen, lambda _: 0.001)
    assert verdict.holds
    assert (verdict.duplicates, verdict.flips) == (2, 1)


def test_exactly_once_allows_nothing_twice() -> None:
    seen = good()
    assert judge(good(), seen, lambda _: 0.001, exactly_once=True).holds
    seen.scored.append(event(3, processed_at=7))
    assert judge(good(), seen, lambda _: 0.001).holds
    verdict = judge(good(), seen, lambda _: 0.001, exactly_once=True)
    assert (verdict.holds, verdict.wrong, verdict.duplicates) == (False, 1, 1)
