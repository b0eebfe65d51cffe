"""silence: keys that have stopped sending, told by the records of the other keys.

A key is silent when the clock of its partition is past its newest record by more than the limit.
The clock is the newest of the log's times up to a record; so a key's own record never tells of its
own silence, and a partition to which nobody sends tells of none (see :mod:`agents.lookout`). Only
usable records count, each once.

A silence begins at the record that moves the clock past the limit and ends at the key's next record
or, for a key that stays away for :data:`FORGOTTEN` limits more, with the key being forgotten.
All of it follows from the records in their order, however they were fetched.
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.keys import Groups
from agents.records import Ints, Records
from agents.silences import Silences
from agents.snapshot import State
from schemas.messages import Incident

FORGOTTEN = 10
"""How many limits a silent key may stay away until it is forgotten: bounds what is remembered."""

_NEVER = 2**62
_ENDS, _BEGINS = 0, 1


class _Turn(NamedTuple):
    """Something that happens at a record: those of one record in this order."""

    at: int
    what: int
    order: int
    key: str
    last: int


class Silence:
    """Watches the keys of one partition.

    Keeps the time of each key's newest record, an array of its own: a key has a row as long as it
    is remembered. Costs one look at the keys of a fetch, and one at all keys each time that the
    longest quiet one may have become silent: about once per limit.

    Parameters
    ----------
    stream
        Name of the stream.
    limit
        How long a key may be quiet, ns.
    per_day
        The partition's share of the alert budget.
    """

    def __init__(self, stream: str, limit: int, per_day: float) -> None:
        self.silences = Silences(stream, per_day)
        self._limit, self._stay = limit, FORGOTTEN * limit
        self._rows: dict[str, int] = {}
        self._last = np.empty(0, dtype=np.int64)  # clock at the newest record of a key
        self._order = np.empty(0, dtype=np.int64)  # number of that record in the partition
        self._told = np.empty(0, dtype=np.int64)  # clock at which it was told silent, or never
        self._clock = -_NEVER
        self._count = 0
        self._due = _NEVER  # nothing becomes silent or is forgotten before this time

    def add(self, records: Records, groups: Groups) -> list[Incident]:
        """Take in records of a fetch, grouped by key; return what is to be told."""
        count = len(records)
        if not count:
            return []
        # before each record, and after the last
        clock = np.maximum.accumulate(np.concatenate([[self._clock], records.log_time]))
        turns = self._returns(records, groups, clock)
        clock = clock[1:]
        self._clock, self._count = int(clock[-1]), self._count + count
        self._due = min(self._due, int(clock[0]) + self._limit)
        if self._clock > self._due:
            turns += self._scan(clock)
        return self._tell(sorted(turns), clock)

    @property
    def clock(self) -> int:
        """The newest of the log's times."""
        return self._clock

    def finish(self) -> list[Incident]:
        """Close all incidents: the input has ended."""
        return self.silences.finish()

    def state(self) -> State:
        """Copy the state: a row for each key, that with the newest record last."""
        names = list(self._rows)
        rows = np.argsort(self._order, kind="stable")
        return {
            "keys": [names[row] for row in rows.tolist()],
            "last": self._last[rows],
            "order": self._order[rows],
            "told": self._told[rows],
            "clock": self._clock,
            "count": self._count,
            "silences": self.silences.state(),
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._rows = {key: row for row, key in enumerate(state["keys"])}
        self._last, self._order = state["last"].copy(), state["order"].copy()
        self._told = state["told"].copy()
        self._clock, self._count = state["clock"], state["count"]
        self.silences.restore(state["silences"])
        self._due = self._next_due()

    def _returns(self, records: Records, groups: Groups, clock: Ints) -> list[_Turn]:
        """Note the records, and return the turns of keys that were silent before one of them."""
        order, first = groups.order, groups.start
        keys = [records.key[i] for i in order[first].tolist()]
        rows = self._rows_of(keys)
        before, after = clock[:-1], clock[1:]
        number = self._count + order
        last, numbered = np.roll(after[order], 1), np.roll(number, 1)
        told = np.full(len(order), _NEVER)
        last[first], numbered[first] = self._last[rows], self._order[rows]
        told[first] = self._told[rows]
        silent = np.flatnonzero((told < _NEVER) | (before[order] > last + self._limit))
        turns, which = [], groups.of_sorted
        for i in silent.tolist():
            turn = _Turn(int(order[i]), _ENDS, int(numbered[i]), keys[which[i]], int(last[i]))
            since = int(told[i])
            if since == _NEVER:
                turns.append(self._begin(after, turn.order, turn.key, turn.last))
                since = int(after[turns[-1].at])
            turns.append(turn._replace(at=min(turn.at, self._forgotten_at(after, since))))
        ends = first + groups.count - 1
        self._last[rows], self._order[rows] = after[order[ends]], number[ends]
        self._told[rows] = _NEVER
        return turns

    def _rows_of(self, keys: list[str]) -> Ints:
        """Return the rows of distinct keys; new ones have no record yet."""
        rows, known = self._rows, len(self._rows)
        found = np.array([rows.setdefault(key, len(rows)) for key in keys], dtype=np.int64)
        never = np.full(len(rows) - known, _NEVER)
        if len(never):
            self._last = np.concatenate([self._last, never])
            self._told = np.concatenate([self._told, never])
            self._order = np.concatenate([self._order, never])
        return found

    def _scan(self, clock: Ints) -> list[_Turn]:
        """Find the keys that have become silent, and those that are forgotten."""
        silent = np.flatnonzero((self._told == _NEVER) & (self._clock > self._last + self._limit))
        turns, names = [], list(self._rows) if len(silent) else []
        for row in silent.tolist():
            last = int(self._last[row])
            turns.append(self._begin(clock, int(self._order[row]), names[row], last))
            self._told[row] = clock[turns[-1].at]
        gone = (self._told < _NEVER) & (self._clock - self._told > self._stay)
        if gone.any():
            turns += self._forget(clock, gone)
        self._due = self._next_due()
        return turns

    def _forget(self, clock: Ints, gone: NDArray[np.bool_]) -> list[_Turn]:
        names, turns = list(self._rows), []
        for row in np.flatnonzero(gone).tolist():
            at = self._forgotten_at(clock, int(self._told[row]))
            last = int(self._last[row])
            turns.append(_Turn(at, _ENDS, int(self._order[row]), names[row], last))
        kept = np.flatnonzero(~gone)
        self._rows = {names[row]: new for new, row in enumerate(kept.tolist())}
        self._last, self._order, self._told = self._last[kept], self._order[kept], self._told[kept]
        return turns

    def _next_due(self) -> int:
        silent = self._told < _NEVER
        due = np.where(silent, self._told + self._stay, self._last + self._limit)
        return int(due.min(initial=_NEVER))

    def _begin(self, clock: Ints, order: int, key: str, last: int) -> _Turn:
        at = int(np.searchsorted(clock, last + self._limit, side="right"))
        return _Turn(at, _BEGINS, order, key, last)

    def _forgotten_at(self, clock: Ints, told: int) -> int:
        return int(np.searchsorted(clock, told + self._stay, side="right"))

    def _tell(self, turns: list[_Turn], clock: Ints) -> list[Incident]:
        said: list[Incident] = []
        for at, group in groupby(turns, key=attrgetter("at")):
            here, now = list(group), int(clock[at])
            for turn in here:
                if turn.what == _ENDS:
                    said += self.silences.end(turn.key, now)
            begun = {turn.key: turn.last for turn in here if turn.what == _BEGINS}
            said += self.silences.begin(begun, now)
        return said
