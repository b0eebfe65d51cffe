"""Keys as slots: small whole numbers that index the preallocated arrays of a partition's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agents.records import Ints
from agents.snapshot import State

Array = TypeVar("Array", bound=NDArray[Any])


class KeyTable:
    """Gives every key of a partition a slot, in the order of first appearance."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def assign(self, keys: Sequence[str]) -> Ints:
        """Return the ``[n]`` slots of keys, new ones included."""
        slots = self._slots
        found = [slots.get(key, -1) for key in keys]
        if -1 in found:
            for index, slot in enumerate(found):
                if slot == -1:
                    found[index] = slots.setdefault(keys[index], len(slots))
        return np.array(found, dtype=np.int64)

    def state(self) -> State:
        """Copy the state: the keys in the order of their slots."""
        return {"keys": list(self._slots)}

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._slots = {key: slot for slot, key in enumerate(state["keys"])}


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


def grow(array: Array, rows: int, fill: float = 0) -> Array:
    """Return ``array`` with room for ``rows`` rows; an eighth more than needed when it grows.

    Doubling would waste up to half of the memory that the state of many keys takes.
    """
    if rows <= len(array):
        return array
    shape = (rows + rows // 8 + 16, *array.shape[1:])
    # pages of zeros that nobody has written to take no memory yet
    larger = np.zeros(shape, array.dtype) if fill == 0 else np.full(shape, fill, array.dtype)
    larger[: len(array)] = array
    return larger  # type: ignore[return-value]


def used(array: NDArray[Any], fill: float = 0) -> int:
    """Count the rows of a ``[rows]`` array of :func:`grow` up to the last that was written to."""
    return int(np.max(np.flatnonzero(array != fill), initial=-1)) + 1


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
