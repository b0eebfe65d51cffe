"""The C library's allocator, told to give large arrays back when they are freed."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["give_back_large_arrays"]

M_MMAP_THRESHOLD = -3
LARGE = 8 << 20  # bytes; the arrays of a batch are smaller, the tables of many keys larger


def give_back_large_arrays() -> None:
    """Keep arrays of more than ``LARGE`` bytes out of the heap, in this process, from now on.

    glibc takes the size of what is freed for what will be asked for again, and raises the threshold
    by itself: the tables of a growing number of keys then leave holes of their former sizes in the
    heap, up to half of the memory of the state. Other C libraries are left alone.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
