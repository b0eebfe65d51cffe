"""Public data sets as windows: how they are read, encoded and reported."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from agents.bench.accuracy.sessions import Sessions
from agents.bench.accuracy.table import Table


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


def sessions(name: str) -> Sessions:
    """Read labelled event sequences."""
    return Sessions.read(folder_of(name), name)


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
