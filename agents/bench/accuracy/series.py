"""Recordings of several numbers over time, as windows that slide along them.

A window is judged when it is complete: its score belongs to its last step, as on a stream. The
first steps of a recording, which no complete window ends at, are not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from agents.bench.accuracy.case import Bools, Case, Floats
from detectors.windows import Layout, WindowArrays, WindowEncoder

STEPS, BAG = 16, 48
"""Steps of a window, and of a stretch that is labelled as a whole."""

PROBATION = 0.15
"""Share of a recording of NAB that nothing is said about (Lavin and Ahmad 2015, section II.B)."""

Numbers = NDArray[np.float32]
Recording = tuple[Numbers, Bools]
"""Numbers ``[n, F]`` and which of the ``n`` steps are labelled."""


def series_case(known: Numbers, judged: Sequence[Recording], rows: int) -> Case:
    """Fit on at most ``rows`` evenly spaced windows of one recording, and test all of others."""
    windows = _windows(known)
    windows = windows[:: -(-len(windows) // rows)]
    tested = [_windows(numbers) for numbers, _ in judged]
    test = np.concatenate(tested)
    series = np.repeat(np.arange(len(tested)), [len(part) for part in tested])
    truth = np.concatenate([anomalous[STEPS - 1 :] for _, anomalous in judged])
    names = tuple(f"x{i}" for i in range(known.shape[1]))
    encode = WindowEncoder(Layout("stream", "route", STEPS, names, (), "sliding"), [])
    flat = partial(_flat, windows, test)
    return Case(encode(_arrays(windows)), None, encode(_arrays(test)), truth, flat, series)


def _windows(numbers: Numbers) -> Numbers:
    """``[n, F]`` to all complete windows ``[n - STEPS + 1, STEPS, F]``."""
    view = np.lib.stride_tricks.sliding_window_view(numbers, STEPS, axis=0)
    return np.ascontiguousarray(view.transpose(0, 2, 1), dtype=np.float32)


def _arrays(windows: Numbers) -> WindowArrays:
    n, steps, _ = windows.shape
    nothing = np.empty((n, steps, 0), dtype=np.int32)
    return WindowArrays(windows, nothing, np.full(n, steps, dtype=np.int64), np.arange(n))


def _flat(known: Numbers, judged: Numbers) -> tuple[Floats, Floats]:
    rows = [np.nan_to_num(part.reshape(len(part), -1).astype(float)) for part in (known, judged)]
    return rows[0], rows[1]


# -- data sets ----------------------------------------------------------------------------------


def entities(names: Sequence[str], folder: Path, seed: int, rows: int) -> list[Callable[[], Case]]:
    """Read recordings of machines: ``NAME_train`` to fit on, ``NAME_test`` with labels."""

    def make(name: str) -> Case:
        judged = pq.read_table(folder / f"{name}_test.parquet")
        known = pq.read_table(folder / f"{name}_train.parquet")
        return series_case(_numbers(known), [(_numbers(judged), _labels(judged, "label"))], rows)

    return [partial(make, name) for name in names]


def channels(names: Sequence[str], folder: Path, seed: int, rows: int) -> list[Callable[[], Case]]:
    """Read telemetry: the channels of ``NAME_train`` and ``NAME_test``, each a case of its own."""
    found: list[Callable[[], Case]] = []

    def make(known: pa.Table, judged: pa.Table) -> Case:
        return series_case(_numbers(known), [(_numbers(judged), _labels(judged, "label"))], rows)

    for name in names:
        known = pq.read_table(folder / f"{name}_train.parquet")
        judged = pq.read_table(folder / f"{name}_test.parquet")
        for channel in sorted(set(judged["channel"].to_pylist())):
            parts = [_rows_of(part, "channel", channel) for part in (known, judged)]
            if _tells(_labels(parts[1], "label")):
                found.append(partial(make, *parts))
    return found


def experiments(folder: Path, seed: int, rows: int) -> list[Callable[[], Case]]:
    """Read a water circuit: fit on the run without faults, test all others together."""

    def make() -> Case:
        table = pq.read_table(folder / "skab/skab.parquet")
        parts = [_rows_of(table, "file", name) for name in sorted(_files(table))]
        judged = [(_numbers(part), _labels(part, "anomaly")) for part in parts]
        return series_case(
            _numbers(pq.read_table(folder / "skab/anomaly_free.parquet")), judged, rows
        )

    return [make]


def benchmark(folder: Path, seed: int, rows: int) -> list[Callable[[], Case]]:
    """Read NAB: fit on the probation period of each recording, and test the rest."""
    table = pq.read_table(folder / "nab/nab.parquet")
    found: list[Callable[[], Case]] = []

    def make(numbers: Numbers, anomalous: Bools, cut: int) -> Case:
        return series_case(numbers[:cut], [(numbers[cut:], anomalous[cut:])], rows)

    for name in sorted(_files(table)):
        part = _rows_of(table, "file", name)
        anomalous = _labels(part, "in_window")
        cut = int(PROBATION * len(anomalous))
        if _tells(anomalous[cut:]):
            found.append(partial(make, _numbers(part.select(["value"])), anomalous, cut))
    return found


def labelled_runs(folder: Path, seed: int, rows: int) -> list[Callable[[], Case]]:
    """Read the water circuit as bags: stretches of runs, half of the runs with their labels."""

    def make() -> Case:
        table = pq.read_table(folder / "skab/skab.parquet")
        names = np.random.default_rng(seed).permutation(sorted(_files(table)))
        fit, test = (
            [_bags(_rows_of(table, "file", name)) for name in part]
            for part in np.array_split(names, 2)
        )
        known, judged = (np.concatenate([bags for bags, _ in part]) for part in (fit, test))
        labels, truth = (np.concatenate([odd for _, odd in part]) for part in (fit, test))
        columns = tuple(f"x{i}" for i in range(known.shape[-1]))
        encode = WindowEncoder(Layout("stream", "route", BAG, columns, (), "tumbling"), [])
        flat = partial(_flat, known, judged)
        fitted = encode(_arrays(known))
        return Case(fitted, labels.astype(np.int8), encode(_arrays(judged)), truth, flat)

    return [make]


def _bags(run: pa.Table) -> tuple[Numbers, Bools]:
    """Stretches ``[n, BAG, F]`` of a run, and which of them hold a labelled step."""
    numbers, labels = _numbers(run), _labels(run, "anomaly")
    whole = len(labels) // BAG * BAG
    odd = np.asarray(labels[:whole].reshape(-1, BAG).any(axis=1))
    return numbers[:whole].reshape(-1, BAG, numbers.shape[1]), odd


_NO_NUMBERS = ("label", "file", "channel", "t", "datetime", "anomaly", "changepoint")


def _numbers(table: pa.Table) -> Numbers:
    columns = (table[name] for name in table.column_names if name not in _NO_NUMBERS)
    return np.stack([column.to_numpy().astype(np.float32) for column in columns], axis=1)


def _labels(table: pa.Table, name: str) -> Bools:
    return np.asarray(table[name].to_numpy() == 1)


def _files(table: pa.Table) -> Iterable[str]:
    return set(table["file"].to_pylist())


def _rows_of(table: pa.Table, column: str, value: str) -> pa.Table:
    texts = pc.cast(table[column], pa.string())
    return table.filter(pc.equal(texts, value))


def _tells(anomalous: Bools) -> bool:
    """Whether complete windows of both kinds can be tested."""
    judged = anomalous[STEPS - 1 :]
    return bool(judged.any() and not judged.all())
