"""Parts of the audit that need no broker: positions, runs of offsets, re-keyed records."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agents.audit.events import EventColumns
from agents.audit.places import Column, Runs, offset_of, partition_of, place, source_places
from agents.audit.rekeyed import Rekeyed
from agents.audit.report import Findings
from connectors.base import Fetch, Origin, Partition
from schemas import messages
from schemas.messages import ScoredEvent
from tests.test_messages import GOLDEN


@given(st.integers(0, 2**18), st.integers(0, 2**44 - 1))
def test_a_position_is_packed_and_unpacked(partition: int, offset: int) -> None:
    packed = np.array([place(partition, offset)], dtype=np.int64)
    assert (int(partition_of(packed)[0]), offset_of(packed)) == (partition, [offset])


@given(st.sets(st.integers(0, 60)), st.data())
def test_runs_know_which_offsets_hold_a_record(held: set[int], data: st.DataObject) -> None:
    runs, left = Runs(), sorted(held)
    while left:
        count = data.draw(st.integers(1, len(left)))
        runs.add(np.array(left[:count], dtype=np.int64))
        left = left[count:]
    assert runs.count == len(held)
    assert runs.bounds == (min(held, default=-1), max(held, default=-1))
    asked = np.arange(-2, 65)
    assert runs.hold(asked).tolist() == [x in held for x in asked.tolist()]


EVENT = messages.decode((GOLDEN / "ScoredEvent.v1.json").read_bytes(), ScoredEvent)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 1), st.booleans()),
        max_size=30,
    )
)
def test_copies_of_events_count_once(rows: list[tuple[int, int, int, bool]]) -> None:
    columns = EventColumns()
    for name, revision, first, anomaly in rows:
        changes = {"event_id": str(name), "revision": revision, "first_offset": first}
        columns.add([msgspec.structs.replace(EVENT, **changes, is_anomaly=anomaly)])
    found = columns.settle()
    copies: dict[tuple[int, int], list[tuple[int, bool]]] = {}
    for name, revision, first, anomaly in rows:
        copies.setdefault((name, revision), []).append((first, anomaly))
    assert len(found.last) == len(copies)
    assert found.repeated == len(rows) - len(copies)
    assert found.conflicting == sum(len({x for x, _ in c}) > 1 for c in copies.values())
    assert found.flipped == sum(len({y for _, y in c}) > 1 for c in copies.values())
    assert sorted(zip(found.first.tolist(), found.anomaly.tolist(), strict=True)) == sorted(
        c[-1] for c in copies.values()
    )


SOURCE = Partition("in", 0)


def source(values: Sequence[bytes | None]) -> Fetch:
    count = len(values)
    return Fetch(SOURCE, np.arange(count), np.zeros(count, np.int64), [None] * count, values)


def rekeyed(origins: Sequence[Origin]) -> Rekeyed:
    count = len(origins)
    fetch = Fetch(
        Partition("out", 1),
        np.arange(count),
        np.zeros(count, np.int64),
        [None] * count,
        [b"x"] * count,
        origins,
    )
    column = Column()
    column.extend(source_places(fetch, "in"))
    return Rekeyed([column], expired=False)


def checks(origins: Sequence[Origin], committed: int, after: int) -> tuple[set[str], set[str]]:
    found = Findings("s")
    rekeyed(origins).check(SOURCE, [source([b"a", b"b", None])], committed, after, found)
    return {x.check for x in found.problems}, {x.check for x in found.notes}


def test_records_lost_by_the_re_keying_stage_are_found() -> None:
    both = [Origin("in", 0, 0), Origin("in", 0, 1)]
    assert checks(both, 3, 3) == (set(), {"rekey-tombstones"})
    assert checks([both[0], both[0]], 3, 3) == ({"rekey-missing"}, {"rekey-tombstones"})
    assert checks(both[:1], 1, 1) == (set(), set())
    assert checks(both, 1, 1) == (set(), {"rekey-uncommitted"})
    assert checks([*both, Origin("in", 0, 3)], 3, 4) == ({"rekey-nowhere"}, {"rekey-tombstones"})
    assert rekeyed([*both, Origin("elsewhere", 0, 3)]).foreign == 1
