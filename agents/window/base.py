"""What every kind of window has in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agents.encode import Features
from agents.keys import Groups
from agents.records import Ints, Records
from agents.rows import Rows
from agents.snapshot import State

Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Windows:
    """``W`` complete windows of one partition, in the order in which they became complete.

    A window that late records change is complete again with every one of them; see
    :mod:`agents.window`.

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
    revision
        ``[W]`` how often windows of this identity were complete before; ``None``: never.
    retracted
        ``[W]`` whether there is no window of this identity any more; ``None``: none is.
    revised
        ``[W]`` whether its records were complete before, under whatever identity; ``None``: no.
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
    revision: Ints | None = None
    retracted: Marks | None = None
    revised: Marks | None = None

    def __len__(self) -> int:
        return len(self.length)

    @property
    def firsts(self) -> Windows:
        """Those that are complete for the first time: what is to be counted once."""
        return self if self.revised is None else self.select(~self.revised)

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
    """Outcome of handing ``n`` records to a windower.

    ``late`` marks the records that came too late for all of their windows; ``behind`` is how far,
    in ns, each was behind the newest event time before it, where windows follow event time.
    """

    windows: Windows
    late: Marks
    behind: Ints | None = None


Find = Callable[[Sequence[str]], Ints]
"""Returns the slots of keys."""


class Windower(Protocol):
    """Window state of one partition.

    ``rows`` is what it knows of each key, by slot; ``by_slot`` tells whether a key must keep its
    slot from one fetch to the next, for these rows or otherwise.
    """

    rows: Rows
    by_slot: bool

    def add(self, records: Records, features: Features, groups: Groups) -> Added:
        """Take in records in offset order; return the windows that they complete."""
        ...

    def finish(self) -> Windows:
        """Close all open windows: the input has ended."""
        ...

    def nbytes(self) -> int:
        """Bytes that the state occupies, rows included."""
        ...

    def held(self, slots: int) -> Marks:
        """Tell which of the first slots open windows refer to, so that they must stay."""
        ...

    def state(self) -> State:
        """Copy the state beside the rows."""
        ...

    def restore(self, state: State, find: Find) -> None:
        """Go on from a state; whatever keys it names have slots already."""
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


def joined(parts: Sequence[Windows], order: Ints) -> Windows:
    """Join windows of one shape, and put them into an order."""
    changed: dict[str, Any] = {}
    for item in fields(Windows):
        values = [getattr(part, item.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            changed[item.name] = np.concatenate(values)
        elif values[0] is not None:
            changed[item.name] = [value for part in values for value in part]
    whole = replace(parts[0], **changed)
    in_order = np.array_equal(order, np.arange(len(order)))
    return whole if in_order else whole.select(order)


def newest_times(before: int, times: Ints) -> Ints:
    """Return ``[n + 1]`` newest event times: before any record, and after each of them."""
    return np.maximum.accumulate(np.concatenate([[before], times]))
