"""Labelled records of public data sets, as windows of one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.preprocessing import OneHotEncoder

from agents.bench.accuracy.case import Bools, Case, Floats, Rows
from agents.bench.accuracy.splits import Split
from agents.templates import CodeCache
from detectors import WindowBatch
from detectors.vocabulary import Vocabulary
from detectors.windows import Layout, WindowArrays, WindowEncoder


@dataclass(frozen=True)
class Table:
    """Labelled records: numbers ``[n, F]``, category values, and which ``[n]`` are anomalies."""

    names: tuple[str, ...]
    numbers: NDArray[np.float32]
    categories: Mapping[str, Sequence[str]]
    anomalous: Bools

    @classmethod
    def read(
        cls,
        folder: Path,
        name: str,
        *,
        label: str,
        categories: Sequence[str] = (),
        drop: Sequence[str] = (),
    ) -> Table:
        """Read ``folder/name.parquet``; every column that is not named here is a number."""
        columns = pq.read_table(folder / f"{name}.parquet")
        texts = {field: [str(x) for x in columns[field].to_pylist()] for field in categories}
        anomalous = columns[label].to_numpy() == 1
        names = [x for x in columns.column_names if x not in {label, *categories, *drop}]
        numbers = [columns[name].to_numpy().astype(np.float32) for name in names]
        return cls(tuple(names), np.stack(numbers, axis=1), texts, anomalous)

    @cached_property
    def windows(self) -> WindowArrays:
        """The records as the pipeline keeps them: windows of one step, in random order."""
        n = len(self.anomalous)
        cat = np.empty((n, len(self.categories)), dtype=np.int32)
        for field, values in enumerate(self.categories.values()):
            cat[:, field] = CodeCache()(values)
        one = np.ones(n, dtype=np.int64)
        return WindowArrays(self.numbers[:, None], cat[:, None], one, np.arange(n))

    def case(self, split: Split) -> Case:
        """Fit on some records and test others."""
        known, judged = self.encoded(split.fit, split.test)
        flat = partial(self.one_hot, split.fit, split.test)
        return Case(known, split.labels, judged, self.anomalous[split.test], flat)

    def encoded(self, fit: Rows, test: Rows) -> tuple[WindowBatch, WindowBatch]:
        """Both parts as a detector sees them, with the vocabularies of the part to fit on."""
        layout = Layout("stream", "route", 1, self.names, tuple(self.categories), "record")
        codes = self.windows.cat[fit, 0]
        found = [Vocabulary.fit(codes[:, field]) for field in range(codes.shape[1])]
        encode = WindowEncoder(layout, found)
        return encode(self.windows[fit]), encode(self.windows[test])

    def one_hot(self, fit: Rows, test: Rows) -> tuple[Floats, Floats]:
        """Both parts as one matrix of numbers each, for those who know no categories."""
        known, judged = self.numbers[fit].astype(float), self.numbers[test].astype(float)
        if not self.categories:
            return known, judged
        values = np.stack([np.array(column) for column in self.categories.values()], axis=1)
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(values[fit])
        return (
            np.hstack([known, encoder.transform(values[fit])]),
            np.hstack([judged, encoder.transform(values[test])]),
        )
