"""Public data sets as windows: how they are read, encoded and reported."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from agents.bench.accuracy.table import Bools, Rows, Table
from detectors.windows import Layout, WindowArrays

SESSION_STEPS = 64
"""Events of a session that are kept: what a pipeline file that says nothing else keeps."""


def folder_of(name: str) -> Path:
    """Return the folder that holds the data set ``name``; skips the test where it is missing."""
    root = os.environ.get("EDDY_DATA")
    if not root:
        pytest.skip("EDDY_DATA is not set: it names the folder of the public data sets")
    path = Path(root, f"{name}.parquet")
    if not path.is_file():
        pytest.skip(f"EDDY_DATA: {path} is missing")
    return Path(root)


def read(name: str) -> dict[str, list[Any]]:
    """Read the columns of the data set ``name``."""
    path = folder_of(name) / f"{name}.parquet"
    columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    return columns


def table(name: str, **options: Any) -> Table:
    """Read labelled records."""
    return Table.read(folder_of(name), name, **options)


def place(text: str) -> float:
    """Place of a text in 0 .. 1 by its hash: a split that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


@dataclass(frozen=True)
class Sessions:
    """Labelled event sequences, with the id of each."""

    ids: Sequence[str]
    events: Sequence[tuple[int, ...]]
    anomalous: Bools

    @classmethod
    def read(cls, name: str) -> Sessions:
        """Read a data set with the columns ``block_id``, ``events`` and ``label``."""
        columns = read(name)
        events = [tuple(sequence) for sequence in columns["events"]]
        return cls(columns["block_id"], events, np.array(columns["label"]) == 1)

    @property
    def layout(self) -> Layout:
        """What a model of these sessions is made for."""
        return Layout("logs", "route", SESSION_STEPS, (), ("event",), "session")

    def windows(self, rows: Rows) -> WindowArrays:
        """Sessions as the pipeline keeps them: windows of events, of which the first are kept."""
        cat = np.zeros((len(rows), SESSION_STEPS, 1), dtype=np.int32)
        length = np.zeros(len(rows), dtype=np.int64)
        for at, row in enumerate(rows.tolist()):
            kept = self.events[row][:SESSION_STEPS]
            cat[at, : len(kept), 0] = kept
            length[at] = len(kept)
        nothing = np.empty((len(rows), SESSION_STEPS, 0), dtype=np.float32)
        return WindowArrays(nothing, cat, length, np.arange(len(rows)))


class Results:
    """Measures of several methods over repetitions."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}

    def add(self, method: str, measures: Mapping[str, float]) -> None:
        """Take the measures of one repetition."""
        for name, value in measures.items():
            self._values.setdefault(method, {}).setdefault(name, []).append(value)

    def mean(self, method: str, measure: str) -> float:
        """Mean over the repetitions."""
        return float(np.mean(self._values[method][measure]))

    def table(self, title: str) -> str:
        """Mean ± standard deviation of every measure, a method a line."""
        names = list(dict.fromkeys(name for row in self._values.values() for name in row))
        width = max(map(len, self._values))
        lines = [title, f"{'':{width}}" + "".join(f"{name:>20}" for name in names)]
        for method, row in self._values.items():
            cells = [f"{np.mean(row[n]):.4f} ± {np.std(row[n]):.4f}" for n in names]
            lines.append(f"{method:{width}}" + "".join(f"{cell:>20}" for cell in cells))
        return "\n".join(lines)
