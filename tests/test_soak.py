"""The soak's records, its judgement of memory, and the pauses that a benchmark reads off gaps."""

from __future__ import annotations

import msgspec
import pytest

from agents.bench.rebalance import _Change, _Gaps, _pauses
from tests.chaos.law import Verdict
from tests.soak.memory import resident
from tests.soak.plan import Found, Plan
from tests.soak.records import PORTION, UNUSABLE, records
from tests.soak.run import positions

PLAN = Plan(part="kills", records=1_000_000, keys=1_000, delivery="at_least_once", kills=20)


def test_records_follow_from_the_plan() -> None:
    count = PORTION + 500
    made = [x for portion in records(3, count, 50, "in") for x in portion]
    assert made == [x for portion in records(3, count, 50, "in") for x in portion]
    assert len(made) == count
    values = [x.value for x in made]
    assert 0 < sum(value in UNUSABLE for value in values) < 100
    assert 0 < len(values) - len(set(values) - set(UNUSABLE)) < 200  # bad, or sent twice
    good = [msgspec.json.decode(value) for value in values if value not in UNUSABLE]
    assert {len(record) for record in good} == {6}
    assert {record["card"] for record in good} == {f"card-{i}" for i in range(50)}


def test_kills_are_spread_over_the_records() -> None:
    places = positions(PLAN)
    assert places == sorted(positions(PLAN))
    assert len(set(places)) == PLAN.kills
    assert 0 < places[0] < places[-1] < PLAN.records
    assert places != positions(msgspec.structs.replace(PLAN, seed=1))


@pytest.mark.parametrize(("slope", "green"), [(0.0, True), (0.04, True), (0.2, False)])
def test_memory_that_grows_is_noticed(slope: float, green: bool) -> None:
    # it fills up in the first quarter, whatever comes later
    samples = [
        (x * 10, 500.0 * min(1.0, x / 25) * (1 + slope * max(0, x - 25) / 75)) for x in range(101)
    ]
    found = resident(samples, 1000, 700.0)
    assert found.growth_percent == pytest.approx(100 * slope, abs=0.01)
    assert found.at_quarter == pytest.approx(500.0, abs=0.1)
    result = Found(plan=PLAN, verdict=Verdict(), resident=found)
    assert result.green is green


def test_a_pause_belongs_to_its_partition_and_change() -> None:
    second = 1_000_000_000
    changes = [_Change("leave", 0, 10 * second), _Change("join", 20 * second, 30 * second)]
    gaps = [(0, 2 * second, 3 * second), (0, 4 * second, 6 * second), (3, 29 * second, 33 * second)]
    found = _Gaps(steady=500.0, gaps=[*gaps, (1, 12 * second, 18 * second)])
    assert _pauses(found, changes[:1]).max == pytest.approx(1.5)
    assert _pauses(found, changes[1:]).max == pytest.approx(3.5)
    assert _pauses(found, changes).p50 == 0.0
