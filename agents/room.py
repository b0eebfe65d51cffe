"""Memory for the copy of a large state, made ready before the state is copied."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGE = 8 << 20  # bytes; smaller arrays lie in memory that the process has already
_ALIGNMENT = 64


class Room:
    """Memory of ``size`` bytes that has been written to once.

    The operating system finds memory when it is first written to, which can take ten times as long
    as the copying: so that happens here, in another thread than that of the batches.
    """

    def __init__(self, size: int = 0) -> None:
        self._memory = np.empty(size, dtype=np.uint8)
        self._memory.fill(0)
        self._taken = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._memory)

    def empty(self) -> None:
        """Make room again: nobody reads the arrays any more that are in it."""
        self._taken = 0

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array to be written to; outside the room once that is full."""
        array: NDArray[Any]
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        start, end = self._taken, self._taken + size
        if end > len(self._memory):
            return np.empty(shape, dtype)
        self._taken = -(-end // _ALIGNMENT) * _ALIGNMENT
        array = self._memory[start:end].view(dtype).reshape(shape)
        return array

    def copy(self, array: NDArray[Any]) -> NDArray[Any]:
        """Copy an array into the room."""
        copied = self.array(array.shape, array.dtype)
        np.copyto(copied, array)
        return copied

    def take(self, array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copy some rows of an array into the room."""
        copied = self.array((len(rows), *array.shape[1:]), array.dtype)
        # all rows are there; to check that would take a copy in between
        return array.take(rows, 0, out=copied, mode="clip")
