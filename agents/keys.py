"""Keys as slots: small whole numbers that index the preallocated arrays of a partition's state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agents.records import Ints

Array = TypeVar("Array", bound=NDArray[Any])

ENTRY = 140
"""Bytes of a key's entry in the table beside the key: its place in the dictionary and in the list
of keys, and the number of its slot; measured with 100,000 keys."""


class KeyTable:
    """Gives each key a slot; a slot that is freed is given to another key."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._keys: list[str] = []  # by slot; free ones have none
        self._free: list[int] = []
        self._texts = 0  # bytes of the keys themselves

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: str) -> bool:
        return key in self._slots

    @property
    def top(self) -> int:
        """One more than the highest slot that was ever given."""
        return len(self._keys)

    @property
    def nbytes(self) -> int:
        """Bytes that the keys in the table take, their slots and places included."""
        return self._texts + ENTRY * len(self._slots)

    def find(self, keys: Sequence[str]) -> Ints:
        """Return the ``[n]`` slots of keys, -1 for those that have none."""
        slots = self._slots
        return np.array([slots.get(key, -1) for key in keys], dtype=np.int64)

    def assign(self, keys: Sequence[str]) -> Ints:
        """Return the ``[n]`` slots of keys, new ones included, in the order of appearance."""
        found = self.find(keys)
        if len(found) and found.min() < 0:
            self.add(dict.fromkeys(keys[i] for i in np.flatnonzero(found < 0).tolist()))
            found = self.find(keys)
        return found

    def add(self, keys: Iterable[str]) -> Ints:
        """Give slots to keys that have none, each named once."""
        given = []
        for key in keys:
            if self._free:
                slot = self._free.pop()
                self._keys[slot] = key
            else:
                slot = len(self._keys)
                self._keys.append(key)
            self._slots[key] = slot
            self._texts += getsizeof(key)
            given.append(slot)
        return np.array(given, dtype=np.int64)

    def keys_of(self, slots: Ints) -> list[str]:
        """Return the keys that have these slots."""
        return [self._keys[slot] for slot in slots.tolist()]

    def free(self, slots: Ints) -> None:
        """Take slots from their keys."""
        for slot in slots.tolist():
            key, self._keys[slot] = self._keys[slot], ""
            self._texts -= getsizeof(key)
            del self._slots[key]
        self._free += slots.tolist()

    def restore(self, keys: Sequence[str]) -> None:
        """Begin anew, with the first slots for these keys."""
        KeyTable.__init__(self)
        self.add(keys)


@dataclass(frozen=True, slots=True)
class Groups:
    """Records of a fetch grouped by slot, each group in arrival order.

    Attributes
    ----------
    order
        ``[n]`` record indices, sorted by slot and stable.
    slot, start, count
        ``[g]`` slot of each group, its first position in ``order``, and its size.
    """

    order: Ints
    slot: Ints
    start: Ints
    count: Ints

    @property
    def of_sorted(self) -> Ints:
        """``[n]`` group of each position of ``order``."""
        return np.repeat(np.arange(len(self.slot)), self.count)

    @property
    def rank(self) -> Ints:
        """``[n]`` place of each position of ``order`` within its group, from 0."""
        return np.arange(len(self.order)) - np.repeat(self.start, self.count)


def group(slots: Ints) -> Groups:
    """Group ``[n]`` slots."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    start = np.flatnonzero(np.diff(ordered, prepend=-1))
    count = np.diff(start, append=len(slots))
    return Groups(order, ordered[start], start, count)


def grow(array: Array, rows: int, fill: float = 0, most: int | None = None) -> Array:
    """Return ``array`` with room for ``rows`` rows; an eighth more than needed when it grows.

    Doubling would waste up to half of the memory that the state of many keys takes. Not more than
    ``most`` rows, unless that many are needed.
    """
    if rows <= len(array):
        return array
    ahead = rows + rows // 8 + 16
    shape = (ahead if most is None else max(rows, min(ahead, most)), *array.shape[1:])
    # pages of zeros that nobody has written to take no memory yet
    larger = np.zeros(shape, array.dtype) if fill == 0 else np.full(shape, fill, array.dtype)
    larger[: len(array)] = array
    return larger  # type: ignore[return-value]


def running(op: np.ufunc, values: NDArray[Any], rank: Ints) -> NDArray[Any]:
    """Accumulate ``[n, …]`` values group by group; ``rank`` is the place of each in its group.

    The groups lie one behind the other. Takes as many steps as the longest of them has doublings
    (Hillis and Steele 1986), whereas NumPy's own ``accumulate`` knows no groups.
    """
    values, step = values.copy(), 1
    most = int(rank.max(initial=0))
    while step <= most:
        reach = np.flatnonzero(rank >= step)
        values[reach] = op(values[reach], values[reach - step])
        step *= 2
    return values
