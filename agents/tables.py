"""Decoded messages as columns by field name, whatever format they came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import numpy as np

from agents.records import Floats, Ints
from schemas.messages import Reason


class Bad(NamedTuple):
    """Why a message cannot be used."""

    reason: Reason
    detail: str


class Table(Protocol):
    """``n`` rows; a field that a row lacks is ``None`` there."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> Sequence[Any]:
        """Return the ``n`` values of a declared field."""
        ...


class Parsed(NamedTuple):
    """A table, for each of its rows the index of its message, and the messages left out."""

    table: Table
    source: Ints
    bad: list[tuple[int, Bad]]


class StructTable:
    """Rows that are structs with one attribute for each field, named by position."""

    def __init__(self, rows: Sequence[Any], attributes: dict[str, str]) -> None:
        self.rows = rows
        self._attributes = attributes

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of field ``name``."""
        return list(map(attrgetter(self._attributes[name]), self.rows))


class ColumnTable:
    """Columns that are at hand already."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], rows: int) -> None:
        self._columns = columns
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of field ``name``."""
        return self._columns[name]


def as_floats(column: Sequence[Any]) -> Floats:
    """Make ``[n]`` float64 of numbers and ``None``; infinite values count as missing."""
    values: Floats
    try:
        values = np.fromiter(column, np.float64, len(column))
    except TypeError:
        values = np.array(column, dtype=np.float64)  # None becomes NaN here, not in fromiter
    infinite = np.isinf(values)
    if infinite.any():
        values[infinite] = np.nan
    return values


def as_strings(column: Sequence[Any]) -> Sequence[str | None]:
    """Make strings of scalars; ``None`` stays."""
    if set(map(type, column)) <= {str, type(None)}:
        return column
    return [v if v is None or type(v) is str else str(v) for v in column]
