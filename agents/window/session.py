"""Session windows: records of a key, or of a session id, without a long pause between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.encode import Features
from agents.keys import Groups, group, running
from agents.records import Ints, Records
from agents.rows import Rows
from agents.snapshot import State
from agents.window.base import Added, Find, Marks, Windows, newest_times, no_windows
from agents.window.slots import (
    COUNT,
    FIRST,
    JUDGED,
    LAST,
    LOG_TIME,
    NEWEST,
    NUMBER,
    PENDING,
    REVISION,
    START,
    Slots,
)
from agents.window.stragglers import Complete, Stragglers, complete_windows
from schemas.config import Session

_NEVER = -(2**62)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Accepted records of a fetch, sorted by entity; those of an entity in offset order.

    ``index`` is where a record stands in the fetch, ``mark`` the newest event time after it,
    ``last`` the slot of the last session that each entity has, or -1.
    """

    entities: list[tuple[str, str]]
    groups: Groups
    index: Ints
    time: Ints
    mark: Ints
    last: Ints


class SessionWindows:
    """The sessions of a partition that are open, or over and can still change.

    A session is over, and complete, once the newest event time of the partition is more than
    ``gap`` past the session's newest record; ``lateness`` behind that nothing changes it any
    more, and a record that would be a session of its own there is late. Sessions come out in the
    order of the records that complete them, then of their end and their opening.

    The identity of a session is its start, with its id if it has one: an id may come again after
    a pause, and is then another session. So a session whose start changes has another identity:
    that of before is retracted, as is the later one of two sessions that a record joins.

    Parameters
    ----------
    final
        Whether sessions are complete only when no record can change them any more.
    """

    by_slot = False

    def __init__(
        self, window: Session, lateness: int, features: int, fields: int, *, final: bool
    ) -> None:
        self.window, self.lateness = window, lateness
        self._gap = int(window.gap)
        self._over = self._gap + (lateness if final else 0)
        self._gone = self._gap + lateness
        self.rows = Rows()
        self._slots = Slots(window.size, features, fields)
        self._newest = _NEVER
        self._seen = 0

    def add(self, records: Records, features: Features, groups: Groups) -> Added:
        """Append records to their sessions; return those that are complete."""
        n = len(records)
        if not n:
            return Added(self._windows(Complete()), np.zeros(0, dtype=bool))
        newest = newest_times(self._newest, records.time)
        behind = newest[:-1] - records.time
        late = behind > self._gone
        complete = Complete()
        if not late.all():
            batch = self._batch(records, groups, ~late, newest)
            rest = np.flatnonzero(~self._extend(batch, records, features))
            spans = self._gap, self._over, self._gone
            take = Stragglers(self._slots, *spans, newest, self._seen, complete).take
            owners = batch.groups.of_sorted[rest].tolist()
            for index, owner in zip(batch.index[rest].tolist(), owners, strict=True):
                take(records, features, index, batch.entities[owner])
        self._newest = int(newest[-1])
        self._seen += n
        self._complete(newest, complete)
        self._slots.close(self._before(self._newest - self._gone))
        return Added(self._windows(complete), late, behind)

    def finish(self) -> Windows:
        """Complete all sessions."""
        complete = Complete()
        self._complete(np.array([self._newest, 2**62]), complete)
        self._slots.close(np.flatnonzero(self._slots.in_use))
        return self._windows(complete)

    def nbytes(self) -> int:
        """Bytes of the sessions that are open or can change."""
        return self._slots.nbytes()

    def held(self, slots: int) -> Marks:
        """No slot is: sessions are found by the names of their entities."""
        return np.zeros(slots, dtype=bool)

    def state(self) -> State:
        """Copy the state."""
        return {"newest": self._newest, "seen": self._seen, "slots": self._slots.state()}

    def restore(self, state: State, find: Find) -> None:
        """Go on from a state."""
        self._newest, self._seen = state["newest"], state["seen"]
        self._slots.restore(state["slots"])

    def _batch(self, records: Records, groups: Groups, kept: Marks, newest: Ints) -> _Batch:
        """Sort the records that are not late by entity."""
        index = np.flatnonzero(kept)
        if records.session is not None:
            known: dict[tuple[str, str], int] = {}
            every = zip(records.key, records.session, strict=True)
            entity = np.array([known.setdefault(name, len(known)) for name in every])
            groups = group(entity[index])
        elif len(index) < len(records):
            entity = np.empty(len(records), dtype=np.int64)
            entity[groups.order] = groups.slot[groups.of_sorted]
            groups = group(entity[index])
        index = index[groups.order]
        firsts = index[groups.start].tolist()
        if records.session is None:
            entities = [(records.key[i], "") for i in firsts]
        else:
            entities = [(records.key[i], records.session[i]) for i in firsts]
        of = self._slots.of
        last = np.array([of[name][-1] if name in of else -1 for name in entities])
        return _Batch(entities, groups, index, records.time[index], newest[1:][index], last)

    def _extend(self, batch: _Batch, records: Records, features: Features) -> Marks:
        """Append the records that only the last session of their entity is open to.

        That is, which neither come after that was over nor before its start; and no record behind
        one that does. Returns which records of the batch these are.
        """
        groups, time, facts = batch.groups, batch.time, self._slots.facts
        rank, of_group = groups.rank, groups.of_sorted
        known = batch.last >= 0
        newest, start = np.full(len(known), _NEVER), np.full(len(known), _NEVER)
        newest[known] = facts[batch.last[known], NEWEST]
        start[known] = facts[batch.last[known], START]
        before = np.empty_like(time)  # newest time of the entity before each record
        before[1:] = running(np.maximum, time, rank)[:-1]
        before[groups.start] = _NEVER
        before = np.maximum(before, newest[of_group])
        opens = time - before > self._gap
        begins = opens | (rank == 0)  # of what a session gets from this fetch
        piece = np.cumsum(begins) - 1
        begin = np.flatnonzero(begins)
        starts = np.where(opens[begin], time[begin], start[of_group[begin]])
        plain = np.where(opens, time, before) + self._over >= batch.mark
        plain &= opens | (time >= starts[piece])
        if not plain.all():
            plain = running(np.logical_and, plain, rank)
        rows = np.flatnonzero(plain)
        if len(rows):
            pieces = np.flatnonzero(plain[begin])
            slots = np.full(len(begin), -1)
            slots[pieces] = self._open(batch, of_group[begin[pieces]], opens[begin[pieces]])
            disordered = (time < before) & ~opens
            self._put(batch, rows, slots[piece[rows]], disordered[rows], (records, features))
        return plain

    def _open(self, batch: _Batch, owners: Ints, opens: Marks) -> Ints:
        """Return the slots of sessions, new ones for those that open."""
        slots, of = batch.last[owners], self._slots.of
        for at in np.flatnonzero(opens).tolist():
            entity = batch.entities[owners[at]]
            slots[at] = self._slots.open(entity)
            of.setdefault(entity, []).append(int(slots[at]))
        return slots

    def _put(
        self,
        batch: _Batch,
        rows: Ints,
        slots: Ints,
        disordered: Marks,
        taken: tuple[Records, Features],
    ) -> None:
        """Put records, given with their slots, into their sessions."""
        index, time = batch.index[rows], batch.time[rows]
        first = np.flatnonzero(np.diff(slots, prepend=-1))
        size = np.diff(first, append=len(slots))
        touched, records = slots[first], taken[0]
        facts = self._slots.facts
        moved = np.repeat(np.logical_or.reduceat(disordered, first), size)
        if moved.any():
            self._slots.arrange(slots[moved], index[moved], taken)
        rank = np.arange(len(slots)) - np.repeat(first, size)
        at = ~moved
        places = facts[slots[at], COUNT] + rank[at]
        self._slots.append(slots[at], places, index[at], taken)
        fresh = touched[facts[touched, COUNT] == 0]
        opened = index[first][facts[touched, COUNT] == 0]
        facts[fresh, NUMBER] = self._seen + opened
        facts[fresh, START] = records.time[opened]
        facts[fresh, FIRST] = records.offset[opened]
        facts[touched, COUNT] += size
        for fact, values in (
            (NEWEST, time),
            (LAST, records.offset[index]),
            (LOG_TIME, records.log_time[index]),
        ):
            most = np.maximum.reduceat(values, first)
            facts[touched, fact] = np.maximum(facts[touched, fact], most)
        facts[touched, PENDING] = 1

    def _before(self, mark: int) -> Ints:
        slots = self._slots
        return np.flatnonzero(slots.in_use & (slots.facts[:, NEWEST] < mark))

    def _complete(self, newest: Ints, complete: Complete) -> None:
        """Publish the sessions that are over and have changed since they were published."""
        over = self._before(int(newest[-1]) - self._over)
        over = over[self._slots.facts[over, PENDING] == 1]
        if len(over):
            trigger = np.searchsorted(
                newest[1:], self._slots.facts[over, NEWEST] + self._over, side="right"
            )
            complete.put(self._slots, over, trigger)
            facts = self._slots.facts
            facts[over, REVISION] += 1
            facts[over, JUDGED] = 1
            facts[over, PENDING] = 0

    def _windows(self, complete: Complete) -> Windows:
        slots = self._slots
        if not complete:
            return no_windows(slots.size, slots.num.shape[2], slots.cat.shape[2])
        return complete_windows(complete, slots.size)
