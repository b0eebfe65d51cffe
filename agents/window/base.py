"""What every kind of window has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agents.encode import Features
from agents.keys import Groups
from agents.records import Ints, Records
from agents.snapshot import State


@dataclass(frozen=True, slots=True)
class Windows:
    """``W`` complete windows of one partition, in the order in which they became complete.

    Attributes
    ----------
    num, cat
        ``[W, T, F]`` float32 and ``[W, T, C]`` int32 codes; zero from ``length`` on.
    length
        ``[W]`` real steps of each window.
    key
        ``W`` entity keys.
    identity
        ``W`` identities within the key, or ``None`` where it is the id of the record ``row``.
    row
        ``[W]`` index of the last record of the window in its fetch, for windows of records.
    start, end
        ``[W]`` event times, ns: of the first and last record, or the bounds of a span.
    first_offset, last_offset, records
        ``[W]`` where the window's records lie, and how many they are.
    log_time
        ``[W]`` the log's time of the last record, ns.
    """

    num: NDArray[np.float32]
    cat: NDArray[np.int32]
    length: Ints
    key: Sequence[str]
    identity: Sequence[str] | None
    row: Ints | None
    start: Ints
    end: Ints
    first_offset: Ints
    last_offset: Ints
    records: Ints
    log_time: Ints

    def __len__(self) -> int:
        return len(self.length)

    def select(self, rows: Ints | NDArray[np.bool_]) -> Windows:
        """Pick windows by index or by mark."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                changed[item.name] = value[index]
            elif value is not None:
                changed[item.name] = [value[i] for i in index.tolist()]
        return replace(self, **changed)


@dataclass(frozen=True, slots=True)
class Added:
    """Outcome of handing records to a windower: complete windows, and which records came late."""

    windows: Windows
    late: NDArray[np.bool_]


class Windower(Protocol):
    """Window state of one partition."""

    def add(self, records: Records, features: Features, groups: Groups) -> Added:
        """Take in records in offset order; return the windows that they complete."""
        ...

    def finish(self) -> Windows:
        """Close all open windows: the input has ended."""
        ...

    def nbytes(self) -> int:
        """Bytes that the arrays of the state occupy."""
        ...

    def state(self) -> State:
        """Copy the state, of arrays the rows in use."""
        ...

    def restore(self, state: State) -> None:
        """Go on from a state."""
        ...


def no_windows(steps: int, features: int, fields_: int) -> Windows:
    """Return zero windows of a shape."""
    none = np.empty(0, dtype=np.int64)
    return Windows(
        num=np.empty((0, steps, features), dtype=np.float32),
        cat=np.empty((0, steps, fields_), dtype=np.int32),
        length=none,
        key=[],
        identity=[],
        row=None,
        start=none,
        end=none,
        first_offset=none,
        last_offset=none,
        records=none,
        log_time=none,
    )
