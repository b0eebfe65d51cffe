"""How much memory there is changes no output, and what is known of keys stays within it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agents import residents
from agents.bench.keys import measure_keys
from agents.encode import Encoder
from agents.judge import Result
from agents.keys import KeyTable
from agents.monitor import Monitor
from agents.pipeline import Pipeline
from agents.residents import Residents, Traffic
from agents.snapshot import pack, unpack
from agents.spilled import put_spill, take_spill
from agents.window import make_windower
from connectors.base import Partition, flatten
from connectors.checkpoints import Checkpoints, Place
from connectors.spill import SpillSpace
from connectors.storage import Storage
from schemas.config import Pipeline as Config
from schemas.config import Size, State
from tests.pipelines import START_MS, config, fetch, payments
from tests.test_restore import NUMBERS, STREAMS, finish, models_of, records, short_memories

__all__ = ["short_memories"]

KEYS = ["sliding", "derived", "tumbling", "hopping", "session", "session by id", "routes"]
LENGTH = 240
LARGE = 2**40
# of two partitions: no room but for the keys of the fetch, for a few keys, for some more
MEMORIES = [1, 2 * 132_200, 2 * 133_400]


def with_memory(made: Config, memory: int) -> Config:
    return msgspec.structs.replace(made, state=State(memory=Size(memory)))


def stream_of(kind: str) -> dict[str, Any]:
    """Session windows that need a row of each key too, which lateness forbids."""
    if kind.startswith("session"):
        return STREAMS[kind] | {"derive": ["gap"], "lateness": "0s", "fields": NUMBERS}
    return STREAMS[kind]


def begun(kind: str, memory: int) -> Pipeline:
    pipeline = Pipeline(with_memory(config(**stream_of(kind)), memory), lambda: 0)
    if not kind.startswith("session"):  # whose models are for other features
        for label, model in models_of(kind).items():
            pipeline.apply("payments", label, model)
    return pipeline


def restarted(pipeline: Pipeline, kind: str, memory: int, files: Checkpoints) -> Pipeline:
    """A new pipeline with another limit that has nothing of the old one but its checkpoints."""
    again = Pipeline(with_memory(pipeline.config, memory), lambda: 0)
    for account in pipeline.accounts():
        partition = Partition(account.topic, account.partition)
        place = Place(partition, "id")
        state = pipeline.snapshot(partition)
        if state["spill"] is not None:
            state["spill"], _ = put_spill(files, place, 1, state["spill"])
        state = unpack(b"".join(pack(state)))
        if state["spill"] is not None:
            state["spill"] = take_spill(files, place, state["spill"], again.spill_space)
        again.restore(partition, state, models_of(kind) if state["models"] else {})
    pipeline.drop_others(())
    return again


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Let keys without windows be forgotten, and rows go out in several parts, of few keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residents, "CHUNK", 5)
        yield


def windows_of(pipeline: Pipeline, results: list[Result]) -> list[Any]:
    """Without a model there are no events; what the windower makes is compared instead."""
    return [finish(pipeline, results), pipeline.totals()]


@pytest.mark.parametrize("kind", KEYS)
@settings(max_examples=8)
@given(
    seed=st.integers(0, 99),
    steps=st.lists(st.integers(1, 40), min_size=8, max_size=16),
    memory=st.sampled_from(MEMORIES),
    restarts=st.lists(st.tuples(st.integers(1, 7), st.sampled_from([*MEMORIES, LARGE]))),
)
def test_outputs_do_not_depend_on_the_memory(
    kind: str, seed: int, steps: list[int], memory: int, restarts: list[tuple[int, int]]
) -> None:
    ends = [0, *np.minimum(np.cumsum(steps), LENGTH).tolist()]
    values = [records(LENGTH, seed + number) for number in (0, 1)]
    undisturbed, limited = begun(kind, LARGE), begun(kind, memory)
    seen: tuple[list[Any], list[Any]] = ([], [])
    for pipeline, windows in zip((undisturbed, limited), seen, strict=True):
        watch(pipeline, windows)
    whole, parts = [], []
    with tempfile.TemporaryDirectory() as folder:
        files, at = Checkpoints(Storage(folder), "cluster"), dict(restarts)
        for number, (a, b) in enumerate(itertools.pairwise(ends)):
            fetches = [fetch(part[a:b], i, a) for i, part in enumerate(values)]
            whole.append(undisturbed.process(fetches))
            parts.append(limited.process(fetches))
            if number in at:
                limited = restarted(limited, kind, at[number], files)
                watch(limited, seen[1])
    assert windows_of(limited, parts) == windows_of(undisturbed, whole)
    assert seen[0] == seen[1]
    limited.drop_others(())


def watch(pipeline: Pipeline, windows: list[Any]) -> None:
    """Note the windows of all partitions, scored or not, to the bit."""
    original = pipeline._judge

    def judge(pending: list[Any], result: Result) -> None:
        for item in pending:
            w = item.windows
            windows.extend(
                zip(w.key, w.start.tolist(), w.end.tolist(), w.records.tolist(), strict=True)
            )
            windows.append((w.num.tobytes(), w.cat.tobytes(), w.first_offset.tobytes()))
        original(pending, result)

    pipeline._judge = judge  # type: ignore[method-assign]


def test_these_limits_make_keys_go_and_come() -> None:
    """Equality means little where no key has to go."""
    for kind in KEYS:
        for memory in MEMORIES:
            pipeline, values = begun(kind, memory), records(LENGTH, 0)
            for a in range(0, LENGTH, 10):
                pipeline.process([fetch(values[a : a + 10], i, a) for i in (0, 1)])
            counts = pipeline.keys()
            rows = pipeline._states[Partition("payments", 0)].keys._width
            assert (counts.returned > 20) == bool(rows), (kind, memory)
            assert counts.resident + counts.spilled <= 24
            assert counts.resident <= 16 or not rows, (kind, counts)
            pipeline.drop_others(())


# -- rows ------------------------------------------------------------------------------------


def made_residents(**changes: Any) -> tuple[Residents, Traffic]:
    stream = config(**STREAMS["derived"] | changes).streams["payments"]
    traffic = Traffic()
    windower = make_windower(stream, 6, 1)
    return Residents(Encoder(stream), windower, SpillSpace(None), traffic), traffic


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), max_size=40), st.data())
def test_a_row_is_what_was_written_to_it_last(
    fetches: list[list[int]], data: st.DataObject
) -> None:
    keys, traffic = made_residents()
    rows = keys._parts[1]
    written: dict[int, int] = {}
    for number, ids in enumerate(fetches, 1):
        if data.draw(st.booleans()):
            keys.limit(data.draw(st.sampled_from([1, 132_500, 136_000])))
        slots = keys.slots([f"key-{i}" for i in ids])
        for i, slot in zip(ids, slots.tolist(), strict=True):
            assert rows["count"][slot] == written.get(i, 0)
            assert (rows["time"][slot] == written.get(i, 0)).all()
        for i, slot in zip(ids, slots.tolist(), strict=True):
            written[i] = rows["count"][slot] = number
            rows["time"][slot] = number
        assert len(keys) + keys.spilled == len(written)
    assert traffic.evicted - traffic.returned == keys.spilled
    keys.close()


def test_the_keys_that_were_idle_longest_go() -> None:
    keys, _ = made_residents()
    for fetched in (["a", "b", "c"], ["a"], ["c"]):
        keys.slots(fetched)
    keys._evict(1, keys._turn + 1)
    assert keys.find(["a", "b", "c"]).tolist() == [0, -1, 2]
    keys._evict(1, keys._turn + 1)
    assert keys.find(["a", "b", "c"]).tolist() == [-1, -1, 2]
    assert keys.spilled == 2
    keys.close()


def test_slots_are_used_again() -> None:
    table = KeyTable()
    assert table.assign(["b", "a", "b"]).tolist() == [0, 1, 0]
    bytes_of_two = table.nbytes
    table.free(np.array([0]))
    assert table.assign(["c", "a"]).tolist() == [0, 1]
    assert (table.nbytes, table.top, len(table)) == (bytes_of_two, 2, 2)
    assert table.keys_of(np.array([1, 0])) == ["a", "c"]


# -- memory ----------------------------------------------------------------------------------


def many(first: int, n: int, step: float = 0.001) -> list[bytes | None]:
    return [
        msgspec.json.encode(
            {"card": f"card-{i}", "ts": START_MS + int(i * 1000 * step), "amount": 1.0}
        )
        for i in range(first, first + n)
    ]


def test_state_stays_within_the_limit() -> None:
    limit = 2**20
    made = with_memory(config(window={"kind": "sliding", "size": 16}, archive=False), limit)
    pipeline = Pipeline(made, lambda: 0)
    for turn in range(2):
        for first in range(0, 6000, 200):
            halves = [many(first, 100), many(first + 100, 100)]
            offset = turn * 3000 + first // 2
            pipeline.process([fetch(part, i, offset) for i, part in enumerate(halves)])
            assert pipeline.state_bytes() <= limit
    counts = pipeline.keys()
    assert counts.resident + counts.spilled == 6000
    assert counts.returned == 6000
    assert counts.resident > 400  # and makes use of it
    assert counts.spill_bytes > 0
    monitor = Monitor()
    monitor.keys(counts)
    monitor.keys(counts)
    value = monitor.registry.get_sample_value
    assert value("eddy_keys_spilled") == counts.spilled
    assert value("eddy_keys_returned_total") == 6000
    pipeline.drop_others(())


def test_a_share_that_shrinks_gives_memory_back() -> None:
    limit = 8 * 2**20
    made = with_memory(config(window={"kind": "sliding", "size": 16}, archive=False), limit)
    pipeline = Pipeline(made, lambda: 0)
    pipeline.process([fetch(many(0, 9_000), 0)])
    before = pipeline.state_bytes()
    assert limit // 2 < before <= limit
    pipeline.process([fetch(many(0, 10), number) for number in (1, 2, 3)])
    assert pipeline.state_bytes() < limit // 2
    assert pipeline.keys().resident + pipeline.keys().spilled == 9_030
    pipeline.drop_others(())
    assert pipeline.keys().spilled == 0


@pytest.mark.parametrize(
    "window",
    [
        {"kind": "session", "gap": "1s"},
        {"kind": "tumbling", "length": "1s"},
        {"kind": "hopping", "length": "1s", "hop": "500ms"},
        {"kind": "sliding", "size": 1},
    ],
)
def test_keys_without_open_windows_are_forgotten(window: dict[str, Any]) -> None:
    pipeline = Pipeline(config(window=window, archive=False), lambda: 0)
    most = []
    for part in range(20):
        pipeline.process([fetch(many(part * 1000, 1000), 0, part * 1000)])
        most.append(pipeline.state_bytes())
        state = pipeline.snapshot(Partition("payments", 0))
        assert len(state["keys"]["keys"]) < 5000
    assert max(most[10:]) <= 1.1 * max(most[:10])
    assert pipeline.keys().spilled == pipeline.keys().evicted == 0
    windows = flatten(pipeline.finish().outputs)
    assert windows == []  # there is no model
    assert pipeline.totals()["payments"].windows == 20_000 * (2 if "hop" in window else 1)


def test_what_a_copy_holds_stays_as_it_is(tmp_path: Path) -> None:
    files = Checkpoints(Storage(tmp_path), "cluster")
    pipeline = Pipeline(with_memory(config(archive=False), 1), lambda: 0)
    place = Place(Partition("payments", 0), "id")
    for number in range(3):
        pipeline.process([fetch(many(100 * number, 100), 0, 100 * number)])
    state = pipeline.snapshot(place.partition)
    pipeline.process([fetch(many(0, 200), 0, 300)])
    named, segments = put_spill(files, place, 1, state["spill"])
    assert segments
    # what is there already is not written again
    assert put_spill(files, place, 1, state["spill"])[1] == segments
    copy = take_spill(files, place, named, SpillSpace(None))
    for number in range(2):
        again = Pipeline(with_memory(config(archive=False), LARGE), lambda: 0)
        again.restore(place.partition, {**state, "spill": copy}, {})
        assert again.keys().spilled == 200
        again.process([fetch(many(0, 300), 0, 300 + number)])
        assert (again.keys().spilled, again.keys().returned) == (0, 200)
        again.drop_others(())
    pipeline.drop_others(())


@pytest.mark.slow
def test_many_keys_in_little_memory() -> None:
    found = measure_keys(20_000, "12MiB")
    limited, unlimited = found.limited, found.unlimited
    assert limited.outputs == unlimited.outputs
    assert limited.returned > 1.5 * 20_000
    assert limited.evicted > limited.returned
    assert limited.state_bytes <= 12 * 2**20 < 16 * 2**20 < unlimited.state_bytes
    assert unlimited.evicted == 0


# -- keys on several partitions -----------------------------------------------------------------


def test_a_key_on_two_partitions_is_counted_and_told_once() -> None:
    pipeline = Pipeline(config(), lambda: 0)
    values: list[bytes | None] = [*payments(40, cards=4)]
    with capture_logs() as logs:
        pipeline.process([fetch(values, partition=0)])
        assert pipeline.keys().scattered == 0
        pipeline.process([fetch(values, partition=1)])
        pipeline.process([fetch(values, partition=1, first=40)])
    assert pipeline.keys().scattered == 4
    [warning] = [entry for entry in logs if entry["log_level"] == "warning"]
    assert "key_partitioned: false" in warning["event"]
    assert warning["stream"] == "payments"
