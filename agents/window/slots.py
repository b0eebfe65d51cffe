"""Sessions in slots: what is known of each, and its first records by event time."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agents.encode import Features
from agents.keys import grow
from agents.records import Ints, Records
from agents.snapshot import State

N = TypeVar("N", bound=NDArray[Any])

FACTS = (
    *("start", "newest", "count", "first", "last", "log_time"),
    "number",  # of the record that opened it, counted from the partition's first
    "revision",  # of what is published next under its identity
    "judged",  # whether any of its records were published before, under whatever identity
    "pending",  # whether it has changed since it was published
)
START, NEWEST, COUNT, FIRST, LAST, LOG_TIME, NUMBER, REVISION, JUDGED, PENDING = range(len(FACTS))
_NAMED = 400  # bytes of an entity: its names, its list of slots, its place among the others
_EMPTY = np.array([2**62, -(2**62), 0, 2**62, 0, 0, 0, 0, 0, 1])


class Slots:
    """Sessions, each in a slot of its own; of each the first ``size`` records are kept.

    An entity is what has sessions: a key, or a key and a session id. Its sessions lie apart from
    one another by more than the gap.
    """

    def __init__(self, size: int, features: int, fields: int) -> None:
        self.size = size
        self.num = np.zeros((0, size, features), dtype=np.float32)
        self.cat = np.zeros((0, size, fields), dtype=np.int32)
        self.time = np.zeros((0, size), dtype=np.int64)
        self.facts = np.zeros((0, len(FACTS)), dtype=np.int64)
        self.in_use = np.zeros(0, dtype=bool)
        self.name: list[tuple[str, str]] = []  # key and session id of each slot
        self.of: dict[tuple[str, str], list[int]] = {}  # the slots of each entity, by time
        self._free: list[int] = []

    def open(self, entity: tuple[str, str]) -> int:
        """Return an empty slot; where it stands among those of its entity is for the caller."""
        if not self._free:
            have = len(self.in_use)
            for name in ("num", "cat", "time", "facts", "in_use"):
                setattr(self, name, grow(getattr(self, name), have + 1))
            self._free = list(range(len(self.in_use) - 1, have - 1, -1))
            self.name += [("", "")] * (len(self.in_use) - have)
        slot = self._free.pop()
        self.name[slot] = entity
        self.in_use[slot] = True
        self.facts[slot] = _EMPTY
        return slot

    def close(self, slots: Ints) -> None:
        """Free slots, and clean them: what nobody has written to costs little to copy."""
        self.num[slots], self.cat[slots], self.time[slots] = 0, 0, 0
        self.in_use[slots] = False
        for slot in slots.tolist():
            siblings = self.of[self.name[slot]]
            siblings.remove(slot)
            if not siblings:
                del self.of[self.name[slot]]
        self._free += slots.tolist()

    def append(
        self, slots: Ints, places: Ints, index: Ints, taken: tuple[Records, Features]
    ) -> None:
        """Put the records ``index`` behind those that their sessions have."""
        fits = places < self.size
        where, rows = (slots[fits], places[fits]), index[fits]
        records, features = taken
        self.num[where], self.cat[where] = features.num[rows], features.cat[rows]
        self.time[where] = records.time[rows]

    def arrange(self, slots: Ints, index: Ints, taken: tuple[Records, Features]) -> None:
        """Put the records ``index``, in offset order, among those that their sessions have."""
        records, features = taken
        touched = np.unique(slots)
        held = np.minimum(self.facts[touched, COUNT], self.size)
        at, place = np.nonzero(np.arange(self.size) < held[:, None])
        owner = np.concatenate([touched[at], slots])
        time = np.concatenate([self.time[touched[at], place], records.time[index]])
        num = np.concatenate([self.num[touched[at], place], features.num[index]])
        cat = np.concatenate([self.cat[touched[at], place], features.cat[index]])
        order = np.lexsort((time, owner))  # stable: of one time in offset order
        owner = owner[order]
        rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
        kept = rank < self.size
        where, rows = (owner[kept], rank[kept]), order[kept]
        self.num[where], self.cat[where], self.time[where] = num[rows], cat[rows], time[rows]

    def insert(self, slot: int, index: int, taken: tuple[Records, Features]) -> None:
        """Put one record among those that a session has."""
        records, features = taken
        held = min(int(self.facts[slot, COUNT]), self.size)
        times, time = self.time[slot], records.time[index]
        place = held
        if held and times[held - 1] > time:
            place = int(times[:held].searchsorted(time, side="right"))
        if place == self.size:
            return
        end = min(held + 1, self.size)
        for array, value in (
            (times, time),
            (self.num[slot], features.num[index]),
            (self.cat[slot], features.cat[index]),
        ):
            if place < held:
                array[place + 1 : end] = array[place : end - 1].copy()
            array[place] = value

    def merge(self, slot: int, later: int) -> None:
        """Let a session go on with the records of a later one of the same entity."""
        held, others = (min(int(self.facts[s, COUNT]), self.size) for s in (slot, later))
        end = min(held + others, self.size)
        for array in (self.num, self.cat, self.time):
            array[slot, held:end] = array[later, : end - held]
        mine, theirs = self.facts[slot], self.facts[later]
        mine[COUNT] += theirs[COUNT]
        mine[NEWEST] = theirs[NEWEST]
        mine[FIRST] = min(mine[FIRST], theirs[FIRST])
        mine[[LAST, LOG_TIME, JUDGED]] = np.maximum(mine, theirs)[[LAST, LOG_TIME, JUDGED]]

    def nbytes(self) -> int:
        """Bytes of the arrays, and about those of the names of the sessions that there are."""
        arrays = sum(a.nbytes for a in (self.num, self.cat, self.time, self.facts, self.in_use))
        return arrays + _NAMED * len(self.of)

    def state(self) -> State:
        """Copy the sessions in the order of their opening; their slots mean nothing."""
        slots = np.flatnonzero(self.in_use)
        slots = slots[np.argsort(self.facts[slots, NUMBER])]
        names = [self.name[slot] for slot in slots.tolist()]
        return {
            "key": [key for key, _ in names],
            "session": [session for _, session in names],
            **{name: getattr(self, name).take(slots, 0) for name in ("num", "cat", "time")},
            **{name: self.facts[slots, i] for i, name in enumerate(FACTS)},
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self.num, self.cat = state["num"].copy(), state["cat"].copy()
        self.time = state["time"].copy()
        self.facts = np.stack([state[name] for name in FACTS], axis=1)
        self.name = list(zip(state["key"], state["session"], strict=True))
        self.in_use = np.ones(len(self.name), dtype=bool)
        self._free, self.of = [], {}
        for slot in np.argsort(self.facts[:, START], kind="stable").tolist():
            self.of.setdefault(self.name[slot], []).append(slot)
