"""Late records revise windows; in the end it is as if all had come in the order of their time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.encode import Features
from agents.keys import KeyTable, group
from agents.records import Records
from agents.window import Windows, make_windower
from connectors.base import Partition
from tests.pipelines import config

SECOND = 10**9
LATENESS = 8
KINDS: dict[str, dict[str, Any]] = {
    "tumbling": {"kind": "tumbling", "length": "10s"},
    "hopping": {"kind": "hopping", "length": "12s", "hop": "4s"},
    "session": {"kind": "session", "gap": "3s", "size": 3},
    "session by id": {"kind": "session", "gap": "3s", "size": 4, "id": "session"},
}


def made(times: np.ndarray, entities: np.ndarray, values: np.ndarray, by_id: bool) -> Records:
    """Records whose key, session, value and category go with their place in the arrays."""
    n = len(times)
    keys = [f"k{e % 3}" for e in entities.tolist()]
    sessions = [f"s{e}" for e in entities.tolist()] if by_id else None
    offsets = np.arange(n) * 2  # compaction leaves holes
    where = Partition("t", 0)
    return Records(where, offsets, times, times, keys, values[:, None], (), (), session=sessions)


def windows(
    kind: str, records: Records, cuts: list[int], lateness: int = LATENESS, **options: Any
) -> tuple[list[dict[str, Any]], int]:
    """What comes out of records cut into fetches, one row a window; and how many were late."""
    window = KINDS[kind]
    stream = config(window=window, lateness=f"{lateness}s").streams["payments"]
    windower, table = make_windower(stream, 1, 1, **options), KeyTable()
    parts, late = [], 0
    for a, b in itertools.pairwise([0, *sorted(cuts), len(records)]):
        mine = np.zeros(len(records), dtype=bool)
        mine[a:b] = True
        part = records.select(mine)
        num = part.numbers.astype(np.float32)
        cat = (part.time // SECOND % 50).astype(np.int32)[:, None]
        added = windower.add(part, Features(num, cat), group(table.assign(part.key)))
        state = windower.state()
        windower = make_windower(stream, 1, 1, **options)
        windower.restore(state, table.find)
        parts.append(added.windows)
        late += int(added.late.sum())
    parts.append(windower.finish())
    return [row for part in parts for row in rows(part)], late


def rows(found: Windows) -> list[dict[str, Any]]:
    n = len(found)
    none = np.zeros(n, dtype=np.int64)
    columns = {
        "key": list(found.key),
        "identity": found.identity,
        "revision": (none if found.revision is None else found.revision).tolist(),
        "retracted": (none > 0 if found.retracted is None else found.retracted).tolist(),
        "revised": (none > 0 if found.revised is None else found.revised).tolist(),
        "start": found.start.tolist(),
        "end": found.end.tolist(),
        "records": found.records.tolist(),
        "last_offset": found.last_offset.tolist(),
        "length": found.length.tolist(),
        "num": found.num.tolist(),
        "cat": found.cat.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def last(found: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """The highest revision of each identity that is not retracted."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in found:
        before = newest.get((row["key"], row["identity"]))
        assert row["revision"] == (0 if before is None else before["revision"] + 1)
        assert before is None or not before["retracted"]
        newest[row["key"], row["identity"]] = row
    return {name: row for name, row in newest.items() if not row["retracted"]}


@st.composite
def arrivals(draw: st.DrawFn, within: int = LATENESS) -> tuple[np.ndarray, ...]:
    """Times, entities and values, shuffled so that none comes later than it may."""
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.3, 1.0, 3.0]))
    times = np.cumsum(rng.exponential(spread * SECOND, n).astype(np.int64) + 1)
    times += 1_700_000_000 * SECOND
    entities = rng.integers(0, draw(st.sampled_from([1, 3, 6])), n)
    values = rng.normal(1e5, 1.0, n).astype(np.float32).astype(np.float64)
    delay = rng.random(n) * (rng.random(n) < draw(st.sampled_from([0.1, 0.5, 1.0])))
    return times, entities, values, np.argsort(times + (delay * within * SECOND).astype(np.int64))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(arrival=arrivals())
def test_the_last_revisions_are_those_of_records_in_order(
    kind: str, arrival: tuple[np.ndarray, ...]
) -> None:
    times, entities, values, order = arrival
    by_id = "id" in KINDS[kind]
    in_order, none = windows(kind, made(times, entities, values, by_id), [])
    shuffled, late = windows(kind, made(times[order], entities[order], values[order], by_id), [])
    assert none == late == 0
    assert not any(row["revision"] or row["revised"] for row in in_order)
    wanted, found = last(in_order), last(shuffled)
    assert set(found) == set(wanted)
    for name, row in found.items():
        for what in ("start", "end", "records", "length", "cat"):
            assert row[what] == wanted[name][what]
        np.testing.assert_allclose(row["num"], wanted[name]["num"], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(arrival=arrivals(within=3 * LATENESS), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_revisions_do_not_depend_on_fetches(
    kind: str, arrival: tuple[np.ndarray, ...], cuts: list[int]
) -> None:
    times, entities, values, order = arrival
    records = made(times[order], entities[order], values[order], "id" in KINDS[kind])
    whole, late = windows(kind, records, [])
    one_by_one = windows(kind, records, list(range(1, len(records))))
    assert one_by_one == (whole, late)
    assert windows(kind, records, [min(cut, len(records)) for cut in cuts]) == (whole, late)
    last(whole)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(arrival=arrivals(within=3 * LATENESS), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_final_windows_are_the_last_revisions(
    kind: str, arrival: tuple[np.ndarray, ...], cuts: list[int]
) -> None:
    times, entities, values, order = arrival
    records = made(times[order], entities[order], values[order], "id" in KINDS[kind])
    revised, late = windows(kind, records, [])
    cuts = [min(cut, len(records)) for cut in cuts]
    final, late_too = windows(kind, records, cuts, final=True)
    assert late == late_too
    assert not any(row["revision"] or row["revised"] for row in final)
    content = {
        name: {**row, "revision": 0, "revised": False} for name, row in last(revised).items()
    }
    assert last(final) == content


@pytest.mark.parametrize("kind", KINDS)
def test_without_lateness_nothing_is_revised(kind: str) -> None:
    rng = np.random.default_rng(0)
    times = np.arange(200) * SECOND + rng.integers(-5, 6, 200) * SECOND
    records = made(times, rng.integers(0, 6, 200), np.zeros(200), "id" in KINDS[kind])
    found, late = windows(kind, records, [50, 100], lateness=0)
    assert late
    assert not any(row["revision"] or row["revised"] or row["retracted"] for row in found)


def test_a_window_does_not_wait_for_the_lateness() -> None:
    records = made(np.array([1, 12, 13, 2]) * SECOND, np.zeros(4, int), np.arange(4.0), False)
    found, _ = windows("tumbling", records, [2])
    assert [(r["start"] // SECOND, r["revision"], r["records"]) for r in found] == [
        (0, 0, 1),
        (0, 1, 2),
        (10, 0, 2),
    ]


def test_a_late_record_joins_sessions_and_moves_their_start() -> None:
    seconds = np.array([10, 16, 30, 13, 8]) * SECOND
    records = made(seconds, np.zeros(5, int), np.arange(5.0), False)
    found, _ = windows("session", records, [], lateness=30)
    told = [(r["start"] // SECOND, r["revision"], r["retracted"], r["revised"]) for r in found]
    assert told == [
        (10, 0, False, False),
        (16, 0, False, False),
        (16, 1, True, True),  # 13 joins it to the one before
        (10, 1, False, True),
        (10, 2, True, True),  # 8 comes before its start
        (8, 0, False, True),
        (30, 0, False, False),
    ]
    assert np.ravel(found[5]["num"]).tolist() == [4, 0, 3]  # the first three by event time


def test_a_session_that_goes_on_is_complete_again_when_it_is_over() -> None:
    seconds = np.array([10, 14, 12, 20]) * SECOND
    records = made(seconds, np.array([0, 1, 0, 1]), np.arange(4.0), False)
    found, _ = windows("session", records, [3])
    told = [(r["key"], r["end"] // SECOND, r["revision"]) for r in found]
    assert told == [("k0", 10, 0), ("k0", 12, 1), ("k1", 14, 0), ("k1", 20, 0)]
