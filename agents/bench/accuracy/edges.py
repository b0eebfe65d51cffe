"""Who met whom: stretches of events that name two entities each, as windows that hold a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from agents.bench.accuracy.case import Bools, Case, Floats
from agents.bench.accuracy.splits import half_of_normals
from agents.bench.accuracy.table import rarity
from detectors.vocabulary import Vocabulary
from detectors.windows import Layout, WindowArrays, WindowEncoder

STEPS = 32
SHARE = 0.05
"""Share of anomalous windows in the test."""


def graph_cases(
    file: str, ends: tuple[str, str], folder: Path, seed: int, rows: int
) -> list[Callable[[], Case]]:
    """One case: windows of successive edges, split at random; one odd edge makes a window odd."""

    def make() -> Case:
        table = pq.read_table(folder / f"{file}.parquet", columns=[*ends, "label"])
        codes, anomalous = _windows(table, ends)
        split = half_of_normals(anomalous, np.random.default_rng(seed), rows, SHARE)
        known, judged = codes[split.fit], codes[split.test]
        layout = Layout("stream", "route", STEPS, (), ends, "tumbling")
        encode = WindowEncoder(layout, [Vocabulary.fit(known[:, :, at]) for at in (0, 1)])
        flat = partial(_flat, known, judged)
        truth = anomalous[split.test]
        return Case(encode(_arrays(known)), None, encode(_arrays(judged)), truth, flat)

    return [make]


def _windows(table: pa.Table, ends: tuple[str, str]) -> tuple[NDArray[np.int32], Bools]:
    """Codes ``[W, STEPS, 2]`` of entities, and which of the windows hold an anomaly."""
    whole = len(table) // STEPS * STEPS
    values = pa.concat_arrays([table[end].combine_chunks() for end in ends])
    codes = pc.dictionary_encode(values).indices.to_numpy().astype(np.int32) + 1
    sides = [part[:whole] for part in np.split(codes, 2)]
    label = table["label"].to_numpy()[:whole] == 1
    return np.stack(sides, axis=1).reshape(-1, STEPS, 2), label.reshape(-1, STEPS).any(axis=1)


def _arrays(codes: NDArray[np.int32]) -> WindowArrays:
    n = len(codes)
    nothing = np.empty((n, STEPS, 0), dtype=np.float32)
    return WindowArrays(nothing, codes, np.full(n, STEPS, dtype=np.int64), np.arange(n))


def _flat(known: NDArray[np.int32], judged: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """How rare each entity of a window is, for those who know no entities."""
    parts = [
        [rarity(known[:, :, end].ravel(), part[:, :, end].ravel()) for end in (0, 1)]
        for part in (known, judged)
    ]
    rows = [np.stack(part, axis=1).reshape(-1, 2 * STEPS) for part in parts]
    return rows[0], rows[1]
