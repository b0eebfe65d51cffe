"""Residents: the keys of a partition that are in memory, and the way of the others out and back.

What is known of each key is a row; a partition keeps as many as its share of the memory has room
for. The keys whose last record lies farthest back make room for others. Their rows wait in a
:class:`connectors.spill.Spill` and come back with the next record of their key. Nothing that
follows from a row depends on where it has been, or on its slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.encode import Encoder
from agents.keys import KeyTable
from agents.records import Ints
from agents.room import Room
from agents.rows import Rows
from agents.snapshot import State
from agents.window import Windower
from connectors.spill import Spill, SpillCopy, SpillSpace

UNLIMITED = 2**62
CHUNK = 10_000  # rows that go out at once: what is under way takes memory too
_PLACE = 8  # bytes of the turn in which a key was used last


@dataclass(slots=True)
class Traffic:
    """How many keys have gone out, and come back, since the process began."""

    evicted: int = 0
    returned: int = 0


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """Keys in memory and on the local disk, and what they take.

    ``evicted``, ``returned`` and ``scattered``, those found on a second partition, count since the
    process began.
    """

    resident: int
    spilled: int
    state_bytes: int
    spill_bytes: int
    evicted: int
    returned: int
    scattered: int


class Residents:
    """The keys of one partition, and which of them are in memory.

    Parameters
    ----------
    encoder, windower
        Who know something of each key.
    space
        Where keys go that memory has no room for.
    traffic
        Counts the keys that go and come.
    """

    def __init__(
        self, encoder: Encoder, windower: Windower, space: SpillSpace, traffic: Traffic
    ) -> None:
        self._parts: list[Rows] = [encoder.rows, windower.rows]
        self._windower = windower
        self._space, self._traffic = space, traffic
        self._width = sum(part.width for part in self._parts)
        self._table = KeyTable()
        self._used = np.full(0, -1, dtype=np.int64)  # turn of the last use; -1: nobody's slot
        self._turn = 0
        self._budget = UNLIMITED
        self._sweep_at = CHUNK
        self._spill: Spill | None = None
        self.spilled = 0
        """Keys that are not in memory."""
        self.newcomers: list[str] = []
        """Keys of the last fetch that were never met before."""

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: str) -> bool:
        return key in self._table

    @property
    def nbytes(self) -> int:
        """Bytes in memory: rows, keys, and what the spill needs."""
        spill = 0 if self._spill is None else self._spill.memory
        return self.row_bytes + self._table.nbytes + self._used.nbytes + spill

    @property
    def row_bytes(self) -> int:
        """Bytes of the rows in memory."""
        return sum(part.nbytes for part in self._parts)

    @property
    def spill_bytes(self) -> int:
        """Bytes on the local disk."""
        return 0 if self._spill is None else self._spill.nbytes

    def find(self, keys: Sequence[str]) -> Ints:
        """Return the ``[n]`` slots of keys, -1 for those that are not in memory."""
        return self._table.find(keys)

    def slots(self, keys: Sequence[str]) -> Ints:
        """Return the ``[n]`` slots of the keys of a fetch; whoever is not in memory comes."""
        found, self.newcomers = self._table.find(keys), []
        if not len(found):
            return found
        self._turn += 1
        if found.min() < 0:
            self._used[found[found >= 0]] = self._turn  # these do not make room for the others
            self._admit(list(dict.fromkeys(keys[i] for i in np.flatnonzero(found < 0).tolist())))
            found = self._table.find(keys)
        self._used[found] = self._turn
        return found

    def limit(self, budget: int) -> None:
        """Keep within this number of bytes from now on."""
        lowered, self._budget = budget < self._budget, budget
        if not lowered:
            return
        capacity = self._capacity()
        self._evict(len(self._table) - capacity, self._turn + 1)
        if len(self._used) > max(capacity, len(self._table)) * 9 // 8 + CHUNK:
            self._close_up()

    def state(self, room: Room) -> State:
        """Copy the keys in memory and their rows, in the order of slots; the rows into a room."""
        slots = np.flatnonzero(self._used >= 0)
        return {
            "keys": self._table.keys_of(slots),
            "used": self._used[slots],
            "turn": self._turn,
            "spilled": self.spilled,
            "rows": [part.state(slots, room) for part in self._parts],
        }

    def copy(self) -> SpillCopy | None:
        """Copy the keys that are not in memory."""
        return None if self._spill is None or not self.spilled else self._spill.copy()

    def restore(self, state: State, copy: SpillCopy | None) -> None:
        """Go on from a state, and what was not in memory then; the limit stays."""
        self.close()
        self._take_up(state)
        self.spilled = state["spilled"]
        self._spill = None if copy is None else self._open(copy)

    def close(self) -> None:
        """Give up what is on the disk."""
        if self._spill is not None:
            self._spill.close()
            self._spill = None

    def _admit(self, keys: list[str]) -> None:
        """Give slots to keys that are not in memory, and rows to those that were there before."""
        self._make_room(len(keys))
        values: list[bytes | None] = [None] * len(keys)
        if self.spilled and self._spill is not None:
            values = self._spill.get([key.encode() for key in keys])
        slots = self._table.add(keys)
        self._reach(self._table.top)
        self.newcomers = [key for key, x in zip(keys, values, strict=True) if x is None]
        known = [value for value in values if value is not None]
        if known:
            back = slots[[value is not None for value in values]]
            data = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), -1)
            self._put(back, data)
            self.spilled -= len(known)
            self._traffic.returned += len(known)

    def _make_room(self, keys: int) -> None:
        wanted, capacity = len(self._table) + keys, self._capacity()
        if not self._width and wanted > self._sweep_at:
            # nothing is known of keys without an open window
            self._evict(len(self._table), self._turn)
            self._sweep_at = CHUNK + 2 * len(self._table)
        elif wanted > capacity:
            # more than must be, so that not every fetch has to
            self._evict(wanted - min(capacity, max(capacity - capacity // 8, keys)), self._turn)

    def _evict(self, count: int, turn: int) -> None:
        """Put out the ``count`` keys that were used least recently, all before ``turn``."""
        if count <= 0:
            return
        idle = (self._used >= 0) & (self._used < turn) & ~self._windower.held(len(self._used))
        slots = np.flatnonzero(idle)
        if count < len(slots):
            slots = np.sort(slots[np.argpartition(self._used[slots], count)[:count]])
        for at in range(0, len(slots) if self._width else 0, CHUNK):
            self._put_out(slots[at : at + CHUNK])
        for part in self._parts:
            part.clear(slots)
        self._used[slots] = -1
        self._table.free(slots)

    def _put_out(self, slots: Ints) -> None:
        if self._spill is None:
            self._spill = self._open()
        data = np.concatenate([part.take(slots) for part in self._parts], axis=1).tobytes()
        starts = range(0, len(data), self._width)
        keys = [key.encode() for key in self._table.keys_of(slots)]
        self._spill.put(keys, (data[at : at + self._width] for at in starts))
        self.spilled += len(keys)
        self._traffic.evicted += len(keys)

    def _put(self, slots: Ints, data: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        at = 0
        for part in self._parts:
            part.put(slots, data[:, at : at + part.width])
            at += part.width

    def _capacity(self) -> int:
        """Return how many keys there is room for, beside open windows of event time."""
        if self._budget == UNLIMITED:
            return UNLIMITED
        windows = self._windower.nbytes() - self._windower.rows.nbytes
        spill = Spill.memory_of(self._budget) if self._width else 0
        if self._spill is not None:
            spill = self._spill.memory
        known = self._table.nbytes / len(self._table) if len(self._table) else 0.0
        return max(1, int((self._budget - windows - spill) / (self._width + _PLACE + known + 1)))

    def _open(self, copy: SpillCopy | None = None) -> Spill:
        return Spill(self._space, Spill.memory_of(self._budget), copy)

    def _reach(self, top: int) -> None:
        most = self._capacity()
        for part in self._parts:
            part.reach(top, most)
        if top > len(self._used):
            ahead = max(top, min(top + top // 8 + 16, most))
            self._used = np.concatenate([self._used, np.full(ahead - len(self._used), -1)])

    def _close_up(self) -> None:
        """Give the memory of unused slots back: the keys get the first ones."""
        windows = self._windower.state()
        self._take_up(self.state(Room()))
        self._windower.restore(windows, self._table.find)

    def _take_up(self, state: State) -> None:
        self._table.restore(state["keys"])
        self._used, self._turn = state["used"].copy(), state["turn"]
        for part, rows in zip(self._parts, state["rows"], strict=True):
            part.restore(rows)
