"""Labelled records of public data sets, as windows of one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

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

MANY = 200
"""Values of a field, over which it is not given one column each."""


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
        most: int | None = None,
        numbers: bool = True,
    ) -> Table:
        """Read ``folder/name.parquet``; every column that is not named here is a number.

        At most ``most`` rows, evenly thinned; without ``numbers``, only the categories.
        """
        columns = pq.read_table(folder / f"{name}.parquet")
        if most is not None and len(columns) > most:
            columns = columns.take(np.linspace(0, len(columns) - 1, most).astype(np.int64))
        texts = {field: [str(x) for x in columns[field].to_pylist()] for field in categories}
        anomalous = columns[label].to_numpy() == 1
        left_out = {label, *categories, *drop}
        names = [x for x in columns.column_names if numbers and x not in left_out]
        values = np.empty((len(columns), len(names)), dtype=np.float32)
        for at, column in enumerate(names):
            values[:, at] = columns[column].to_numpy()
        return cls(tuple(names), values, texts, anomalous)

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
        """Both parts as one matrix of numbers each, for those who know no categories.

        A field of many values is a number: how rare its value is.
        """
        known, judged = [self.numbers[fit].astype(float)], [self.numbers[test].astype(float)]
        for values in self.categories.values():
            texts = np.array(values)
            seen, tested = texts[fit], texts[test]
            if len(np.unique(seen)) > MANY:
                known.append(rarity(seen, seen)[:, None])
                judged.append(rarity(seen, tested)[:, None])
                continue
            encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
            known.append(encoder.fit_transform(seen[:, None]))
            judged.append(encoder.transform(tested[:, None]))
        return np.hstack(known), np.hstack(judged)


def rarity(known: NDArray[Any], values: NDArray[Any]) -> Floats:
    """Return minus the logarithm of the share of what is known that equals each value ``[n]``.

    A value that is not known counts as half a one.
    """
    found, counts = np.unique(known, return_counts=True)
    at = np.minimum(np.searchsorted(found, values), len(found) - 1)
    rare: Floats = -np.log(np.where(found[at] == values, counts[at], 0.5) / len(known))
    return rare
