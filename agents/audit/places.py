"""Positions in a topic as numbers, so that millions of them fit into arrays."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.records import Ints
from connectors.base import Fetch

_OFFSET_BITS = 44
ELSEWHERE = -1


def place(partition: int, offset: int) -> int:
    """Pack a position: partitions up to half a million, offsets up to 17 million millions."""
    return (partition << _OFFSET_BITS) | offset


def offset_of(places: Ints) -> list[int]:
    """Return the offsets of packed positions."""
    offsets: list[int] = (places & ((1 << _OFFSET_BITS) - 1)).tolist()
    return offsets


def partition_of(places: Ints) -> Ints:
    """Return the partitions of packed positions."""
    return places >> _OFFSET_BITS


def source_places(fetch: Fetch, topic: str) -> Ints:
    """Return where in ``topic`` records were first read; ``ELSEWHERE`` for other topics."""
    if fetch.origins is None:
        own = fetch.partition.topic == topic
        packed: Ints = (np.int64(fetch.partition.number) << _OFFSET_BITS) | fetch.offsets
        return packed if own else np.full(len(fetch), ELSEWHERE)
    return np.array(
        [place(x.partition, x.offset) if x.topic == topic else ELSEWHERE for x in fetch.origins],
        dtype=np.int64,
    )


def find(wanted: Ints, among: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Look ``[n]`` positions up in sorted ones: where each would be, and whether it is there."""
    if not len(among):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    index = np.minimum(np.searchsorted(among, wanted), len(among) - 1)
    return index, among[index] == wanted


class Column:
    """A growing column of numbers, whose memory is hardly more than that of its numbers."""

    def __init__(self, dtype: str = "q") -> None:
        self._values = array(dtype)
        self._dtype = np.dtype(dtype)

    def extend(self, values: NDArray[np.generic]) -> None:
        """Append ``[n]`` values."""
        self._values.frombytes(np.ascontiguousarray(values, self._dtype).tobytes())

    def array(self) -> NDArray[Any]:
        """Return all values, read-only in spirit: nothing may be appended afterwards."""
        return np.frombuffer(self._values, self._dtype)


class Runs:
    """Which offsets of a partition hold a record, as runs of consecutive ones."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[int] = []
        self._last: list[int] = []

    def add(self, offsets: Ints) -> None:
        """Add ``[n]`` offsets, all higher than those before; at least one."""
        self.count += len(offsets)
        ends = np.flatnonzero(np.diff(offsets) != 1)
        firsts = [int(offsets[0]), *offsets[ends + 1].tolist()]
        lasts = [*offsets[ends].tolist(), int(offsets[-1])]
        if self._last and firsts[0] == self._last[-1] + 1:
            self._last[-1] = lasts[0]
            firsts, lasts = firsts[1:], lasts[1:]
        self._first += firsts
        self._last += lasts

    @property
    def bounds(self) -> tuple[int, int]:
        """Return the first and the last offset; (-1, -1) without any."""
        return (self._first[0], self._last[-1]) if self._first else (-1, -1)

    def hold(self, offsets: Ints) -> NDArray[np.bool_]:
        """Tell of ``[n]`` offsets whether there is a record."""
        if not self._first:
            return np.zeros(len(offsets), dtype=bool)
        run = np.searchsorted(np.array(self._first), offsets, side="right") - 1
        found: NDArray[np.bool_] = (run >= 0) & (offsets <= np.array(self._last)[run])
        return found
