"""Room for copies: right copies inside and outside it, and no batch waits for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agents.checkpointer import Checkpointer
from agents.room import LARGE, Room
from connectors.base import Partition
from connectors.spill import SpillSpace
from connectors.storage import Storage
from schemas.config import Checkpoints

PLACE = Partition("payments", 0)
DTYPES = st.sampled_from(["float32", "int64", "uint8"])


@given(
    st.integers(0, 2000),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5), DTYPES), max_size=6),
    st.integers(0, 100),
)
def test_copies_are_right_and_share_nothing(
    size: int, shapes: list[tuple[int, int, str]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    room = Room(size)
    arrays = [rng.integers(0, 200, (n, m)).astype(kind) for n, m, kind in shapes]
    kept = [array.copy() for array in arrays]
    rows = [np.sort(rng.permutation(len(array))[: len(array) // 2]) for array in arrays]
    copies = [room.copy(array) for array in arrays]
    taken = [room.take(array, some) for array, some in zip(arrays, rows, strict=True)]
    for array in arrays:
        array[:] = 255
    for whole, part, before, some in zip(copies, taken, kept, rows, strict=True):
        np.testing.assert_array_equal(whole, before)
        np.testing.assert_array_equal(part, before[some])
        assert whole.dtype == part.dtype == before.dtype


def test_what_fits_lies_in_the_room() -> None:
    room = Room(1024)
    small, large = np.ones(100, dtype=np.uint8), np.ones(1000, dtype=np.uint8)
    inside, outside = room.copy(small), room.copy(large)
    assert np.shares_memory(inside, room._memory)
    assert not np.shares_memory(outside, room._memory)


def test_a_room_serves_again_when_its_copy_is_written_and_not_before(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as writer:
        checkpointer = Checkpointer(
            Storage(str(tmp_path)), Checkpoints(), writer, SpillSpace(str(tmp_path / "spill"))
        )

        def ready(size: int) -> Room:
            while (room := checkpointer.room(PLACE, size)) is None:
                writer.submit(lambda: None).result()
            return room

        def take(offset: int, room: Room) -> None:
            values = room.copy(np.full(LARGE, offset, dtype=np.uint8))
            checkpointer.take(PLACE, offset, {"spill": None, "values": values}, room)

        checkpointer.begin("cluster", {PLACE: "topic"}, generation=0)
        first = ready(LARGE)
        take(1, first)
        assert ready(LARGE) is not first  # its copy waits for the commit
        checkpointer.committed({PLACE: 1})
        again = ready(LARGE)
        assert again is first
        take(2, again)
        checkpointer.committed({PLACE: 2})
        assert ready(3 * LARGE).size == 3 * LARGE  # too small
        found = {at: set(state["values"].tolist()) for at, state in checkpointer.found(PLACE, 2)}
    assert found == {1: {1}, 2: {2}}


def test_a_large_copy_waits_for_its_room_and_a_small_one_does_not(tmp_path: Path) -> None:
    busy = threading.Event()
    with ThreadPoolExecutor(1) as writer:
        checkpointer = Checkpointer(
            Storage(str(tmp_path)), Checkpoints(), writer, SpillSpace(str(tmp_path / "spill"))
        )
        checkpointer.begin("cluster", {PLACE: "topic"}, generation=0)
        writer.submit(busy.wait)
        assert checkpointer.room(PLACE, 1000) is not None
        assert checkpointer.room(PLACE, LARGE) is None
        assert checkpointer.room(PLACE, LARGE) is None
        busy.set()
        writer.submit(lambda: None).result()
        room = checkpointer.room(PLACE, LARGE)
        assert room is not None
        assert np.shares_memory(room.copy(np.ones(1 << 20)), room._memory)
        assert checkpointer.room(PLACE, LARGE) is None  # the next copy has a room of its own
