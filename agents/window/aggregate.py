"""Tumbling and hopping windows: aggregates of a key's records over spans of event time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.encode import Features
from agents.keys import Groups, grow
from agents.records import Ints, Records
from agents.snapshot import State, copied, put_back
from agents.window.base import Added, Windows, no_windows

STATISTICS = ("mean", "std", "min", "max")
_BITS = 64
_FILL = {"least": np.inf, "most": -np.inf, "first": 2**62}  # of rows without records; else 0


class _Span:
    """Accumulators of one span of event time, a row for each key seen in it."""

    _ROWS = (
        *("count", "total", "square", "least", "most", "seen"),
        *("records", "first", "last", "log_time"),
    )

    def __init__(self, features: int, fields: int) -> None:
        self.row_of = np.full(0, -1, dtype=np.int64)
        self.key: list[str] = []
        self.count = np.zeros((0, features))  # non-missing values of each feature
        self.total = np.zeros((0, features))
        self.square = np.zeros((0, features))
        self.least = np.zeros((0, features))
        self.most = np.zeros((0, features))
        self.seen = np.zeros((0, fields), dtype=np.uint64)
        self.records = np.zeros(0, dtype=np.int64)
        self.first = np.zeros(0, dtype=np.int64)
        self.last = np.zeros(0, dtype=np.int64)
        self.log_time = np.zeros(0, dtype=np.int64)

    def add(self, slots: Ints, records: Records, features: Features, index: Ints) -> None:
        """Take in the records ``index``, whose keys have these slots."""
        rows = self._rows(slots, records, index)
        num = features.num[index].astype(np.float64)
        present = ~np.isnan(num)
        filled = np.where(present, num, 0.0)
        np.add.at(self.count, rows, present)
        np.add.at(self.total, rows, filled)
        np.add.at(self.square, rows, filled**2)
        np.minimum.at(self.least, rows, np.where(present, num, np.inf))
        np.maximum.at(self.most, rows, np.where(present, num, -np.inf))
        bits = np.left_shift(np.uint64(1), (features.cat[index] % _BITS).astype(np.uint64))
        np.bitwise_or.at(self.seen, rows, bits)
        np.add.at(self.records, rows, 1)
        np.minimum.at(self.first, rows, records.offset[index])
        np.maximum.at(self.last, rows, records.offset[index])
        np.maximum.at(self.log_time, rows, records.log_time[index])

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

    def aggregates(self) -> NDArray[np.float32]:
        """Return ``[keys, 1 + 4 F + C]``: log count, the statistics, distinct values."""
        n = len(self.key)
        count = np.maximum(self.count[:n], 1.0)
        mean = self.total[:n] / count
        std = np.sqrt(np.maximum(self.square[:n] / count - mean**2, 0.0))
        empty = self.count[:n] == 0
        parts = [mean, std, self.least[:n], self.most[:n]]
        for part in parts:
            part[empty] = np.nan
        stacked = np.stack(parts, axis=2).reshape(n, -1)
        # linear counting (Whang et al. 1990): 64 bits tell up to ~64 values apart
        free = _BITS - np.bitwise_count(self.seen[:n]).astype(np.float64)
        distinct = -_BITS * np.log(np.maximum(free, 0.5) / _BITS)
        log_count = np.log1p(self.records[:n])[:, None]
        return np.concatenate([log_count, stacked, distinct], axis=1).astype(np.float32)

    def state(self) -> State:
        """Copy the state; ``slots`` are those of the rows."""
        slots = np.flatnonzero(self.row_of >= 0)
        slots = slots[np.argsort(self.row_of[slots])]
        return {
            "slots": slots,
            "key": self.key.copy(),
            **copied(self, self._ROWS, len(self.key)),
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        put_back(self, self._ROWS, state)
        slots, self.key = state["slots"], list(state["key"])
        self.row_of = np.full(int(slots.max(initial=-1)) + 1, -1, dtype=np.int64)
        self.row_of[slots] = np.arange(len(slots))


class AggregateWindows:
    """Windows of ``length`` ns that start every ``hop`` ns of event time.

    A window is complete once the watermark, the newest event time of the partition less
    ``lateness``, has reached its end; a record all of whose windows are complete is late.
    """

    def __init__(self, length: int, hop: int, lateness: int, features: int, fields: int) -> None:
        self.length, self.hop, self.lateness = length, hop, lateness
        self._shape = (features, fields)
        self._open: dict[int, _Span] = {}  # by end
        self._newest = -(2**62)

    @staticmethod
    def names(numbers: list[str], categories: list[str]) -> list[str]:
        """Name the aggregates of features."""
        statistics = [f"{name}_{what}" for name in numbers for what in STATISTICS]
        return ["records_log", *statistics, *(f"{name}_distinct" for name in categories)]

    def add(self, records: Records, features: Features, groups: Groups) -> Added:
        """Add records to the open windows that they fall into; close those that are over."""
        n = len(records)
        accepted = np.zeros(n, dtype=bool)
        if n:
            slots = np.empty(n, dtype=np.int64)
            slots[groups.order] = groups.slot[groups.of_sorted]
            newest = np.maximum.accumulate(np.concatenate([[self._newest], records.time]))
            last_end = records.time // self.hop * self.hop + self.length
            parts: dict[int, list[Ints]] = {}
            for back in range(self.length // self.hop):
                end = last_end - back * self.hop
                fits = (end > records.time) & (end + self.lateness > newest[:-1])
                accepted |= fits
                for value in np.unique(end[fits]).tolist():
                    parts.setdefault(value, []).append(np.flatnonzero(fits & (end == value)))
            for value, found in parts.items():
                index = np.sort(np.concatenate(found))  # arrival decides the order of keys
                span = self._open.setdefault(value, _Span(*self._shape))
                span.add(slots[index], records, features, index)
            self._newest = int(newest[-1])
        return Added(self._close(self._newest - self.lateness), ~accepted)

    def finish(self) -> Windows:
        """Close all windows."""
        return self._close(2**62)

    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(
            value.nbytes
            for span in self._open.values()
            for value in vars(span).values()
            if isinstance(value, np.ndarray)
        )

    def state(self) -> State:
        """Copy the state."""
        spans = [{"end": end, **span.state()} for end, span in self._open.items()]
        return {"newest": self._newest, "spans": spans}

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._newest = state["newest"]
        self._open = {}
        for part in state["spans"]:
            span = self._open[part["end"]] = _Span(*self._shape)
            span.restore(part)

    def _close(self, watermark: int) -> Windows:
        over = sorted(end for end in self._open if end <= watermark)
        features, fields = self._shape
        if not over:
            return no_windows(1, 1 + 4 * features + fields, 0)
        spans = [(end, self._open.pop(end)) for end in over]

        def join(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(s, name)[: len(s.key)] for _, s in spans])

        end = np.concatenate([np.full(len(s.key), e) for e, s in spans])
        start = end - self.length
        num = np.concatenate([s.aggregates() for _, s in spans])[:, None, :]
        return Windows(
            num=num,
            cat=np.empty((len(num), 1, 0), dtype=np.int32),
            length=np.ones(len(num), dtype=np.int64),
            key=[key for _, s in spans for key in s.key],
            identity=[f"{a}-{b}" for a, b in zip(start.tolist(), end.tolist(), strict=True)],
            row=None,
            start=start,
            end=end,
            first_offset=join("first"),
            last_offset=join("last"),
            records=join("records"),
            log_time=join("log_time"),
        )
