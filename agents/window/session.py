"""Session windows: records of a key, or of a session id, without a long pause between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.encode import Features
from agents.keys import Groups, group, grow
from agents.records import Ints, Records
from agents.snapshot import State
from agents.window.base import Added, Windows, no_windows
from schemas.config import Session

_STATE = ("start", "newest", "count", "first", "last", "log_time", "number")


class SessionWindows:
    """Open sessions, each in a slot of its own; the first ``size`` records of each are kept.

    A session is over once the watermark, the newest event time of the partition less
    ``lateness``, is more than ``gap`` past the session's newest record. A record that is itself so
    old is late. Sessions come out in the order of their end, then of their first record.
    """

    def __init__(self, window: Session, lateness: int, features: int, fields: int) -> None:
        self.window, self.lateness = window, lateness
        size = window.size
        self._num = np.zeros((0, size, features), dtype=np.float32)
        self._cat = np.zeros((0, size, fields), dtype=np.int32)
        self._state = {name: np.zeros(0, dtype=np.int64) for name in _STATE}
        self._is_open = np.zeros(0, dtype=bool)
        self._slot_of: dict[str, int] = {}
        self._name: list[tuple[str, str]] = []  # key and session id of each slot
        self._free: list[int] = []
        self._newest = -(2**62)
        self._opened = 0

    def add(self, records: Records, features: Features, groups: Groups) -> Added:
        """Append records to their sessions; close those that are over."""
        n, gap = len(records), int(self.window.gap)
        late = np.zeros(n, dtype=bool)
        if n:
            newest = np.maximum.accumulate(np.concatenate([[self._newest], records.time]))
            late = records.time <= newest[:-1] - self.lateness - gap
            self._newest = int(newest[-1])
            kept = np.flatnonzero(~late)
            if len(kept):
                before = newest[:-1] - self.lateness - gap
                self._append(records, features, kept, before[kept])
        return Added(self._close(self._newest - self.lateness - gap), late)

    def finish(self) -> Windows:
        """Close all sessions."""
        return self._close(2**62)

    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = [self._num, self._cat, self._is_open, *self._state.values()]
        return sum(array.nbytes for array in arrays)

    def state(self) -> State:
        """Copy the open sessions in the order of their opening; their slots mean nothing."""
        slots = np.flatnonzero(self._is_open)
        slots = slots[np.argsort(self._state["number"][slots])]
        names = [self._name[slot] for slot in slots.tolist()]
        return {
            "newest": self._newest,
            "opened": self._opened,
            "key": [key for key, _ in names],
            "session": [session for _, session in names],
            "num": self._num.take(slots, 0),
            "cat": self._cat.take(slots, 0),
            "state": {name: array[slots] for name, array in self._state.items()},
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._newest, self._opened = state["newest"], state["opened"]
        self._num, self._cat = state["num"].copy(), state["cat"].copy()
        self._state = {name: array.copy() for name, array in state["state"].items()}
        self._name = list(zip(state["key"], state["session"], strict=True))
        self._is_open = np.ones(len(self._name), dtype=bool)
        # of sessions of one name the newest goes on, the others wait to be closed
        self._slot_of = {self._full_name(*name): slot for slot, name in enumerate(self._name)}
        self._free = []

    def _append(self, records: Records, features: Features, kept: Ints, over: Ints) -> None:
        slots = self._slots(records, kept, over)
        groups = group(slots)
        state, ordered = self._state, kept[groups.order]
        place = state["count"][slots[groups.order]] + groups.rank
        fits = place < self.window.size
        where = (slots[groups.order][fits], place[fits])
        self._num[where] = features.num[ordered[fits]]
        self._cat[where] = features.cat[ordered[fits]]
        np.minimum.at(state["start"], slots, records.time[kept])
        np.minimum.at(state["first"], slots, records.offset[kept])
        np.maximum.at(state["last"], slots, records.offset[kept])
        np.maximum.at(state["log_time"], slots, records.log_time[kept])
        state["count"][groups.slot] += groups.count

    def _slots(self, records: Records, kept: Ints, over: Ints) -> Ints:
        """Return the slot of each record's session, opening new ones where a session is over.

        ``over`` is the time before which a session's newest record must lie for it to be over
        when the record arrives; it may not have been closed yet, and must not depend on that.
        """
        gap, newest = int(self.window.gap), self._state["newest"]
        found = np.empty(len(kept), dtype=np.int64)
        by_id: Sequence[str] | None = records.session
        times, limits = records.time[kept].tolist(), over.tolist()
        for at, index in enumerate(kept.tolist()):
            name = records.key[index] if by_id is None else f"{records.key[index]}\0{by_id[index]}"
            slot = self._slot_of.get(name, -1)
            if slot < 0 or times[at] - newest[slot] > gap or newest[slot] < limits[at]:
                slot = self._open(name, records.key[index], "" if by_id is None else by_id[index])
                newest = self._state["newest"]
            if times[at] > newest[slot]:
                newest[slot] = times[at]
            found[at] = slot
        return found

    def _open(self, name: str, key: str, session: str) -> int:
        if not self._free:
            have = len(self._is_open)
            self._num = grow(self._num, have + 1)
            self._cat = grow(self._cat, have + 1)
            for field, array in self._state.items():
                self._state[field] = grow(array, have + 1)
            self._is_open = grow(self._is_open, have + 1, False)
            self._free = list(range(len(self._is_open) - 1, have - 1, -1))
            self._name += [("", "")] * (len(self._is_open) - have)
        slot = self._free.pop()
        self._slot_of[name] = slot
        self._name[slot] = (key, session)
        self._is_open[slot] = True
        empty = {"start": 2**62, "first": 2**62, "newest": -(2**62), "number": self._opened}
        for field, array in self._state.items():
            array[slot] = empty.get(field, 0)
        self._opened += 1
        return slot

    def _close(self, before: int) -> Windows:
        state = self._state
        over = np.flatnonzero(self._is_open & (state["newest"] < before))
        if not len(over):
            return no_windows(self.window.size, self._num.shape[2], self._cat.shape[2])
        over = over[np.lexsort((state["number"][over], state["newest"][over]))]
        slots = over.tolist()
        names = [self._name[slot] for slot in slots]
        length = np.minimum(state["count"][over], self.window.size)
        num, cat = self._num[over], self._cat[over]
        self._num[over], self._cat[over] = 0, 0  # for the next ones in these slots
        start = state["start"][over]
        identity = [
            f"{session}@{begin}" if session else str(begin)
            for (_, session), begin in zip(names, start.tolist(), strict=True)
        ]
        windows = Windows(
            num=num,
            cat=cat,
            length=length,
            key=[key for key, _ in names],
            identity=identity,
            row=None,
            start=start,
            end=state["newest"][over],
            first_offset=state["first"][over],
            last_offset=state["last"][over],
            records=state["count"][over],
            log_time=state["log_time"][over],
        )
        for slot, (key, session) in zip(slots, names, strict=True):
            name = self._full_name(key, session)
            if self._slot_of.get(name) == slot:
                del self._slot_of[name]
            self._is_open[slot] = False
            self._free.append(slot)
        return windows

    def _full_name(self, key: str, session: str) -> str:
        return key if self.window.id is None else f"{key}\0{session}"
