"""Rows: what is known of each key, as arrays that a slot indexes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.keys import grow
from agents.records import Ints
from agents.room import Room
from agents.snapshot import State

Bytes = NDArray[np.uint8]


class Rows:
    """Arrays of ``[slots, …]`` that grow together.

    Parameters
    ----------
    columns
        Arrays without rows, by name: type and shape of what each slot has.
    fill
        What stands in rows that nothing was written to, where it is not 0.
    """

    def __init__(
        self,
        columns: Mapping[str, NDArray[Any]] | None = None,
        fill: Mapping[str, float] | None = None,
    ) -> None:
        self._columns = dict(columns or {})
        self._fill = dict(fill or {})
        sizes = [math.prod(c.shape[1:]) * c.itemsize for c in self._columns.values()]
        self.width = sum(sizes)
        """Bytes of one row."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column; it is replaced by another when the rows grow."""
        return self._columns[name]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(column.nbytes for column in self._columns.values())

    def reach(self, rows: int, most: int | None = None) -> None:
        """Make room for ``rows`` rows, and for some more, but not more than ``most``."""
        for name, column in self._columns.items():
            self._columns[name] = grow(column, rows, self._fill.get(name, 0), most)

    def clear(self, slots: Ints) -> None:
        """Make rows as if nothing had been written to them."""
        for name, column in self._columns.items():
            column[slots] = self._fill.get(name, 0)

    def take(self, slots: Ints) -> Bytes:
        """Copy rows as ``[n, width]`` bytes."""
        parts = [
            column.take(slots, 0).reshape(len(slots), -1).view(np.uint8)
            for column in self._columns.values()
            if math.prod(column.shape[1:])
        ]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(slots), 0), np.uint8)

    def put(self, slots: Ints, data: Bytes) -> None:
        """Set rows to what :meth:`take` returned."""
        at = 0
        for column in self._columns.values():
            size = math.prod(column.shape[1:]) * column.itemsize
            if size:
                part = np.ascontiguousarray(data[:, at : at + size]).view(column.dtype)
                column[slots] = part.reshape(-1, *column.shape[1:])
            at += size

    def state(self, slots: Ints, room: Room) -> State:
        """Copy the rows of slots, which are in ascending order, into a room."""
        n = len(slots)
        whole = n == 0 or slots[-1] == n - 1  # a plain copy is faster
        return {
            name: room.copy(column[:n]) if whole else room.take(column, slots)
            for name, column in self._columns.items()
        }

    def restore(self, state: State) -> None:
        """Go on with the rows of a state, as the first slots."""
        for name in self._columns:
            self._columns[name] = state[name].copy()
