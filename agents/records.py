"""Decoded records: the columns of one fetch, in offset order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.base import Origin, Partition
from schemas.messages import DeadLetter

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Rows = NDArray[np.int64] | NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Records:
    """``n`` good records of one partition.

    Attributes
    ----------
    offset
        ``[n]`` position in the log; the rows of one Arrow message share it.
    log_time, time
        ``[n]`` the log's time and the event time, ns since 1970 UTC.
    key
        ``n`` entity keys; empty strings where the stream has none.
    numbers
        ``[n, F]`` float64 as sent, ``NaN`` where null or missing.
    categories, texts
        A list of ``n`` strings for each category or text field; ``None`` where null or missing.
    ids
        ``n`` values of the id field, if the stream has one.
    origins
        Where each record was first read, if a re-keying stage rewrote it.
    labels
        ``[n]`` 1 anomaly, 0 normal, -1 unknown, where a label field was asked for.
    row
        ``[n]`` row within its message, if messages hold several records.
    session
        ``n`` session ids, if windows are sessions by id.
    """

    partition: Partition
    offset: Ints
    log_time: Ints
    time: Ints
    key: Sequence[str]
    numbers: Floats
    categories: tuple[Sequence[str | None], ...]
    texts: tuple[Sequence[str | None], ...]
    ids: Sequence[str | None] | None = None
    origins: Sequence[Origin] | None = None
    row: Ints | None = None
    labels: NDArray[np.int8] | None = None
    session: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.offset)

    def identity(self, index: int) -> str:
        """Name record ``index``: by its id, else by where it was first read."""
        given = None if self.ids is None else self.ids[index]
        if given is not None:
            return given
        origin = None if self.origins is None else self.origins[index]
        topic, number, offset = origin or (*self.partition, int(self.offset[index]))
        row = 0 if self.row is None else int(self.row[index])
        return f"{topic}/{number}/{offset}" + (f"/{row}" if row else "")

    def select(self, keep: NDArray[np.bool_]) -> Records:
        """Keep the records marked true."""
        if keep.all():
            return self
        rows = np.flatnonzero(keep).tolist()
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                changed[item.name] = value[keep]
            elif item.name in ("categories", "texts"):
                changed[item.name] = tuple([column[r] for r in rows] for column in value)
            elif item.name != "partition" and value is not None:
                changed[item.name] = [value[r] for r in rows]
        return replace(self, **changed)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a fetch: good records, dead letters, and tombstones left out."""

    records: Records
    dead_letters: list[DeadLetter]
    filtered: int

    @property
    def records_in(self) -> int:
        """Number of records that the fetch held."""
        return len(self.records) + len(self.dead_letters) + self.filtered
