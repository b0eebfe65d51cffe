"""Aggregates of the records of each key in one span of event time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.encode import Features
from agents.keys import group, grow, running
from agents.records import Ints, Records
from agents.snapshot import State, copied, put_back

STATISTICS = ("mean", "std", "min", "max")
_BITS = 64
_OPERATIONS = {
    "count": np.add,  # non-missing values of each feature
    "total": np.add,
    "squares": np.add,
    "squares_rest": np.add,
    "least": np.minimum,
    "most": np.maximum,
    "seen": np.bitwise_or,
    "records": np.add,
    "first": np.minimum,
    "last": np.maximum,
    "log_time": np.maximum,
}
_FILL = {"least": np.inf, "most": -np.inf, "first": 2**62}  # of rows without records; else 0
_KEY = 72  # bytes of a key of a dozen letters, and of its place in a list
_UPPER_HALF = ~np.int64(2**29 - 1)  # leaves 24 of the 53 binary digits of a float64

Totals = Mapping[str, NDArray[Any]]


class Span:
    """Totals of one span of event time, a row for each key seen in it.

    Totals do not depend on the order of records: values are float32, of which float64 adds up
    many without rounding, and their squares are added in two halves of as few digits. (Rounding
    begins where the values of one window differ by many orders of magnitude.)
    """

    _ROWS = (*_OPERATIONS, "revision")

    def __init__(self, features: int, fields: int) -> None:
        self.row_of = np.full(0, -1, dtype=np.int64)
        self.key: list[str] = []
        for name in ("count", "total", "squares", "squares_rest", "least", "most"):
            setattr(self, name, np.zeros((0, features)))
        self.seen = np.zeros((0, fields), dtype=np.uint64)
        for name in ("records", "first", "last", "log_time", "revision"):
            setattr(self, name, np.zeros(0, dtype=np.int64))

    def add(self, slots: Ints, records: Records, features: Features, index: Ints) -> None:
        """Take in the records ``index``, whose keys have these slots."""
        rows = self._rows(slots, records, index)
        for name, values in _parts(records, features, index).items():
            _OPERATIONS[name].at(getattr(self, name), rows, values)

    def revise(
        self, slots: Ints, records: Records, features: Features, index: Ints
    ) -> tuple[Ints, Ints, Totals]:
        """Take in late records one after the other.

        Returns
        -------
        place, row, totals
            For each record, by key and in offset order: its place in ``index``, its row, and the
            totals of that row up to it.
        """
        rows = self._rows(slots, records, index)
        groups = group(rows)
        place, rank = groups.order, groups.rank
        rows, ends = rows[place], groups.start + groups.count - 1
        totals = {"revision": self.values("revision")[rows] + rank}
        for name, values in _parts(records, features, index[place]).items():
            have, op = getattr(self, name), _OPERATIONS[name]
            totals[name] = op(have[rows], running(op, values, rank))
            have[groups.slot] = totals[name][ends]
        self.values("revision")[groups.slot] += groups.count
        return place, rows, totals

    def publish(self) -> Totals:
        """Return the totals of all rows, which are complete for the first time."""
        totals = {name: self.values(name).copy() for name in self._ROWS}
        self.values("revision")[:] = 1
        return totals

    def values(self, name: str) -> NDArray[Any]:
        """Return one of the totals of the rows in use."""
        values: NDArray[Any] = getattr(self, name)[: len(self.key)]
        return values

    def nbytes(self) -> int:
        """Bytes of the arrays, and about those of the keys."""
        rows: list[NDArray[Any]] = [getattr(self, name) for name in self._ROWS]
        arrays = self.row_of.nbytes + sum(array.nbytes for array in rows)
        return arrays + _KEY * len(self.key)

    def state(self) -> State:
        """Copy the state; the keys are in the order of the rows."""
        return {"key": self.key.copy(), **copied(self, self._ROWS, len(self.key))}

    def restore(self, state: State, slots: Ints) -> None:
        """Go on from a state whose keys have these slots."""
        put_back(self, self._ROWS, state)
        self.key = list(state["key"])
        self.row_of = np.full(int(slots.max(initial=-1)) + 1, -1, dtype=np.int64)
        self.row_of[slots] = np.arange(len(slots))

    def _rows(self, slots: Ints, records: Records, index: Ints) -> Ints:
        self.row_of = grow(self.row_of, int(slots.max()) + 1, -1)
        rows = self.row_of[slots]
        for at in np.flatnonzero(rows < 0).tolist():
            slot = int(slots[at])
            if self.row_of[slot] < 0:
                self.row_of[slot] = len(self.key)
                self.key.append(records.key[int(index[at])])
        size = len(self.key)
        for name in self._ROWS:
            setattr(self, name, grow(getattr(self, name), size, _FILL.get(name, 0)))
        return self.row_of[slots]


def _parts(records: Records, features: Features, index: Ints) -> Totals:
    """Return what each record adds to the totals."""
    num = features.num[index].astype(np.float64)
    present = ~np.isnan(num)
    filled = np.where(present, num, 0.0)
    squares = filled**2
    upper = (squares.view(np.int64) & _UPPER_HALF).view(np.float64)
    return {
        "count": present.astype(np.float64),
        "total": filled,
        "squares": upper,
        "squares_rest": squares - upper,
        "least": np.where(present, num, np.inf),
        "most": np.where(present, num, -np.inf),
        "seen": np.left_shift(np.uint64(1), (features.cat[index] % _BITS).astype(np.uint64)),
        "records": np.ones(len(index), dtype=np.int64),
        "first": records.offset[index],
        "last": records.offset[index],
        "log_time": records.log_time[index],
    }


def aggregates(totals: Totals) -> NDArray[np.float32]:
    """Return ``[n, 1 + 4 F + C]``: log count, the statistics, distinct values."""
    n = len(totals["records"])
    count = np.maximum(totals["count"], 1.0)
    mean = totals["total"] / count
    squares = totals["squares"] + totals["squares_rest"]
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    empty = totals["count"] == 0
    parts = [mean, std, totals["least"].copy(), totals["most"].copy()]
    for part in parts:
        part[empty] = np.nan
    stacked = np.stack(parts, axis=2).reshape(n, -1)
    # linear counting (Whang et al. 1990): 64 bits tell up to ~64 values apart
    free = _BITS - np.bitwise_count(totals["seen"]).astype(np.float64)
    distinct = -_BITS * np.log(np.maximum(free, 0.5) / _BITS)
    log_count = np.log1p(totals["records"])[:, None]
    return np.concatenate([log_count, stacked, distinct], axis=1).astype(np.float32)
