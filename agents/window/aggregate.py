"""Tumbling and hopping windows: aggregates of a key's records over spans of event time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from agents.encode import Features
from agents.keys import Groups
from agents.records import Ints, Records
from agents.rows import Rows
from agents.snapshot import State
from agents.window.base import (
    Added,
    Find,
    Marks,
    Windows,
    joined,
    newest_times,
    no_windows,
)
from agents.window.span import STATISTICS, Span, Totals, aggregates


@dataclass(frozen=True, slots=True)
class _Complete:
    """Windows of one span, and which record of the fetch completes each."""

    end: int
    trigger: Ints
    key: list[str]
    totals: Totals


class AggregateWindows:
    """Windows of ``length`` ns that start every ``hop`` ns of event time.

    A window is complete once the newest event time of the partition has reached its end, and
    again with each record that comes later; ``lateness`` behind that a record is late.

    Parameters
    ----------
    final
        Whether windows are complete only when no record can change them any more.
    """

    by_slot = True

    def __init__(
        self, length: int, hop: int, lateness: int, features: int, fields: int, *, final: bool
    ) -> None:
        self.length, self.hop, self.lateness = length, hop, lateness
        self._wait = lateness if final else 0
        self.rows = Rows()
        self._shape = (features, fields)
        self._spans: dict[int, Span] = {}  # by end
        self._newest = -(2**62)

    @staticmethod
    def names(numbers: list[str], categories: list[str]) -> list[str]:
        """Name the aggregates of features."""
        statistics = [f"{name}_{what}" for name in numbers for what in STATISTICS]
        return ["records_log", *statistics, *(f"{name}_distinct" for name in categories)]

    @staticmethod
    def logarithms(numbers: Collection[str]) -> set[str]:
        """Which aggregates are logarithms where these features are."""
        told = [what for what in STATISTICS if what != "std"]  # a deviation of them is a ratio
        return {"records_log", *(f"{name}_{what}" for name in numbers for what in told)}

    def add(self, records: Records, features: Features, groups: Groups) -> Added:
        """Add records to the windows that they fall into; return those that are complete."""
        n = len(records)
        accepted = np.zeros(n, dtype=bool)
        if not n:
            return Added(self._windows([]), accepted)
        slots = np.empty(n, dtype=np.int64)
        slots[groups.order] = groups.slot[groups.of_sorted]
        newest = newest_times(self._newest, records.time)
        last_end = records.time // self.hop * self.hop + self.length
        in_time: dict[int, list[Ints]] = {}
        after: dict[int, list[Ints]] = {}
        for back in range(self.length // self.hop):
            end = last_end - back * self.hop
            fits = (end > records.time) & (end + self.lateness > newest[:-1])
            accepted |= fits
            for value in np.unique(end[fits]).tolist():
                found = np.flatnonzero(fits & (end == value))
                ready = newest[found] >= value + self._wait
                for into, part in ((in_time, found[~ready]), (after, found[ready])):
                    if len(part):
                        into.setdefault(value, []).append(part)
        for end_, parts in in_time.items():
            index = np.sort(np.concatenate(parts))  # arrival decides the order of keys
            self._span(end_).add(slots[index], records, features, index)
        complete = self._complete(newest)
        for end_, parts in after.items():  # all of them come after the window was complete
            index = np.sort(np.concatenate(parts))
            span = self._span(end_)
            place, rows, totals = span.revise(slots[index], records, features, index)
            keys = [span.key[row] for row in rows.tolist()]
            complete.append(_Complete(end_, index[place], keys, totals))
        self._newest = int(newest[-1])
        for end_ in [e for e in self._spans if e + self.lateness <= self._newest]:
            del self._spans[end_]
        return Added(self._windows(complete), ~accepted, newest[:-1] - records.time)

    def finish(self) -> Windows:
        """Complete all windows."""
        windows = self._windows(self._complete(np.array([self._newest, 2**62])))
        self._spans = {}
        return windows

    def nbytes(self) -> int:
        """Bytes of the windows that are open or can change."""
        return sum(span.nbytes() for span in self._spans.values())

    def held(self, slots: int) -> Marks:
        """Tell which slots have a row in a window."""
        held = np.zeros(slots, dtype=bool)
        for span in self._spans.values():
            rows = span.row_of[:slots]
            held[: len(rows)] |= rows >= 0
        return held

    def state(self) -> State:
        """Copy the state."""
        spans = [{"end": end, **span.state()} for end, span in self._spans.items()]
        return {"newest": self._newest, "spans": spans}

    def restore(self, state: State, find: Find) -> None:
        """Go on from a state."""
        self._newest = state["newest"]
        self._spans = {}
        for part in state["spans"]:
            self._span(part["end"]).restore(part, find(part["key"]))

    def _span(self, end: int) -> Span:
        if end not in self._spans:
            self._spans[end] = Span(*self._shape)
        return self._spans[end]

    def _complete(self, newest: Ints) -> list[_Complete]:
        """Find the spans that one of the records completes for the first time."""
        before, after = newest[[0, -1]] - self._wait
        complete = []
        for end in sorted(end for end in self._spans if before < end <= after):
            span = self._spans[end]
            trigger = np.searchsorted(newest[1:], end + self._wait)
            triggers = np.full(len(span.key), trigger)
            complete.append(_Complete(end, triggers, span.key.copy(), span.publish()))
        return complete

    def _windows(self, complete: list[_Complete]) -> Windows:
        """Make windows, in the order of the records that complete them, then of their ends."""
        if not complete:
            features, fields = self._shape
            return no_windows(1, 1 + 4 * features + fields, 0)
        trigger = np.concatenate([part.trigger for part in complete])
        end = np.concatenate([np.full(len(part.key), part.end) for part in complete])
        return joined([self._part(part) for part in complete], np.lexsort((end, trigger)))

    def _part(self, part: _Complete) -> Windows:
        totals, n, start = part.totals, len(part.key), part.end - self.length
        return Windows(
            num=aggregates(totals)[:, None, :],
            cat=np.empty((n, 1, 0), dtype=np.int32),
            length=np.ones(n, dtype=np.int64),
            key=part.key,
            identity=[f"{start}-{part.end}"] * n,
            row=None,
            start=np.full(n, start),
            end=np.full(n, part.end),
            first_offset=totals["first"],
            last_offset=totals["last"],
            records=totals["records"],
            log_time=totals["log_time"],
            revision=totals["revision"],
            retracted=np.zeros(n, dtype=bool),
            revised=totals["revision"] > 0,
        )
