"""Sliding windows: the last records of a key in arrival order."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from agents.encode import Features
from agents.keys import Groups
from agents.records import Records
from agents.rows import Rows
from agents.snapshot import State
from agents.window.base import Added, Find, Marks, Windows, no_windows
from schemas.config import Sliding

D = TypeVar("D", np.float32, np.int32)


class SingleRecords:
    """Windows of one record: no state at all."""

    by_slot = False

    def __init__(self) -> None:
        self.rows = Rows()

    def add(self, records: Records, features: Features, groups: Groups) -> Added:
        """Make each record a window."""
        n = len(records)
        windows = Windows(
            num=features.num[:, None, :],
            cat=features.cat[:, None, :],
            length=np.ones(n, dtype=np.int64),
            key=records.key,
            identity=None,
            row=np.arange(n),
            start=records.time,
            end=records.time,
            first_offset=records.offset,
            last_offset=records.offset,
            records=np.ones(n, dtype=np.int64),
            log_time=records.log_time,
        )
        return Added(windows, np.zeros(n, dtype=bool))

    def finish(self) -> Windows:
        """Nothing is ever open."""
        return no_windows(1, 0, 0)

    def nbytes(self) -> int:
        """No state."""
        return 0

    def held(self, slots: int) -> Marks:
        """No slot is."""
        return np.zeros(slots, dtype=bool)

    def state(self) -> State:
        """No state."""
        return {}

    def restore(self, state: State, find: Find) -> None:
        """No state."""


class SlidingWindows:
    """The last ``size`` records of each key; its state is the last ``size - 1`` of each.

    The records of a fetch are laid behind the history of their key in one buffer, so that every
    window is one contiguous piece of it.
    """

    by_slot = True

    def __init__(self, window: Sliding, features: int, fields: int) -> None:
        self.window = window
        self._features, self._fields = features, fields
        past = window.size - 1
        self.rows = Rows(
            {
                "num": np.empty((0, past, features), dtype=np.float32),
                "cat": np.empty((0, past, fields), dtype=np.int32),
                "time": np.empty((0, past), dtype=np.int64),
                "offset": np.empty((0, past), dtype=np.int64),
                "count": np.empty(0, dtype=np.int64),
            }
        )

    def add(self, records: Records, features: Features, groups: Groups) -> Added:
        """Append records; every ``stride``-th of a key completes a window."""
        n, size = len(records), self.window.size
        if n == 0:
            return Added(self.finish(), np.zeros(0, dtype=bool))
        self.rows.reach(int(groups.slot.max()) + 1)
        count = self.rows["count"]
        of_group, order = groups.of_sorted, groups.order
        place = np.arange(n) + (size - 1) * (of_group + 1)  # of each sorted record in the buffer
        history = (groups.start + (size - 1) * np.arange(len(groups.slot)))[:, None] + np.arange(
            size - 1
        )
        seen = count[groups.slot][of_group] + groups.rank + 1
        emitted = (seen >= self.window.least) & (
            (seen - self.window.least) % self.window.stride == 0
        )
        # back from the order of keys to the order of arrival
        arrival = np.empty(n, dtype=np.int64)
        arrival[order] = np.arange(n)
        arrival = arrival[emitted[arrival]]
        length = np.minimum(seen[arrival], size)
        first = place[arrival] - length + 1
        row = order[arrival]
        buffers = []
        tail = history + groups.count[:, None]
        for name, new in (
            ("num", features.num),
            ("cat", features.cat),
            ("time", records.time),
            ("offset", records.offset),
        ):
            state = self.rows[name]
            buffer = np.zeros((n + (size - 1) * len(groups.slot) + size, *new.shape[1:]), new.dtype)
            buffer[history] = state[groups.slot]
            buffer[place] = new[order]
            state[groups.slot] = buffer[tail]
            buffers.append(buffer)
        count[groups.slot] += groups.count
        num, cat, time, offset = buffers
        windows = Windows(
            num=_cut(num, first, length, size),
            cat=_cut(cat, first, length, size),
            length=length,
            key=[records.key[i] for i in row.tolist()],
            identity=None,
            row=row,
            start=time[first],
            end=records.time[row],
            first_offset=offset[first],
            last_offset=records.offset[row],
            records=length,
            log_time=records.log_time[row],
        )
        return Added(windows, np.zeros(n, dtype=bool))

    def finish(self) -> Windows:
        """Nothing is ever open: a window is complete with its last record."""
        return no_windows(self.window.size, self._features, self._fields)

    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.rows.nbytes

    def held(self, slots: int) -> Marks:
        """No slot is: all there is of a key is in its row."""
        return np.zeros(slots, dtype=bool)

    def state(self) -> State:
        """No state but the rows."""
        return {}

    def restore(self, state: State, find: Find) -> None:
        """No state but the rows."""


def _cut(
    buffer: NDArray[D], first: NDArray[np.int64], length: NDArray[np.int64], size: int
) -> NDArray[D]:
    """Copy the windows that begin at ``first`` out of ``[rows, width]``; zero behind ``length``."""
    rows, width = buffer.shape
    step = buffer.itemsize
    view = as_strided(
        buffer, (rows - size + 1, size * width), (width * step, step), writeable=False
    )
    windows = view[first].reshape(len(first), size, width)
    short = np.flatnonzero(length < size)
    if len(short):
        padding = np.arange(size) >= length[short, None]
        windows[short] = np.where(padding[:, :, None], 0, windows[short])
    return windows
