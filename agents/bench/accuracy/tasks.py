"""What is measured on: data sets, each under one protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents.bench.accuracy import series
from agents.bench.accuracy.case import Case, Cases
from agents.bench.accuracy.edges import graph_cases
from agents.bench.accuracy.sessions import Sessions
from agents.bench.accuracy.splits import Split, Splitter, few_labels, half_of_normals
from agents.bench.accuracy.table import Table
from schemas.errors import DataError

ATTACKS = 0.05
HDFS_ANOMALIES = 0.0293
"""Share of the sessions of the whole log: anomalies are over-represented in what is published."""

EDGES = 200_000
"""Edges that are drawn from; the files hold millions."""

STREAM, WARM_UP = 100_000, 500
"""Records of a stream, and how many of them come before the first that counts."""


@dataclass(frozen=True)
class Task:
    """One data set under one protocol: its files, without their ending, and its cases."""

    name: str
    suite: str
    files: tuple[str, ...]
    cases: Cases

    def find(self, folder: Path) -> None:
        """Raise :class:`DataError` if the data set is not in the folder."""
        for file in self.files:
            path = folder / f"{file}.parquet"
            if not path.is_file():
                msg = f"{path}: no such file; --data names the folder of the public data sets"
                raise DataError(msg)


def record_cases(
    file: str,
    split: Splitter,
    options: dict[str, Any],
    folder: Path,
    seed: int,
    rows: int,
) -> list[Callable[[], Case]]:
    """One case: labelled records, split at random."""

    def make() -> Case:
        table = Table.read(folder, file, **options)
        return table.case(split(table.anomalous, np.random.default_rng(seed), rows))

    return [make]


def stream_cases(
    file: str, options: dict[str, Any], folder: Path, seed: int, rows: int
) -> list[Callable[[], Case]]:
    """One case: records in their order, evenly thinned; the first are fitted on unlabelled."""

    def make() -> Case:
        table = Table.read(folder, file, **options)
        n = len(table.anomalous)
        order = np.linspace(0, n - 1, min(n, STREAM)).astype(np.int64)
        case = table.case(Split(order[:WARM_UP], None, order[WARM_UP:]))
        return replace(case, learns=True)

    return [make]


def session_cases(
    file: str,
    split: Splitter,
    options: dict[str, Any],
    folder: Path,
    seed: int,
    rows: int,
) -> list[Callable[[], Case]]:
    """One case: labelled sessions, split at random."""

    def make() -> Case:
        sessions = Sessions.read(folder, file, **options)
        parts = split(sessions.anomalous, np.random.default_rng(seed), rows)
        return sessions.case(parts.fit, parts.test, parts.labels)

    return [make]


def _records(
    name: str, suite: str, file: str, split: Splitter, label: str = "label", **options: Any
) -> Task:
    cases = partial(record_cases, file, split, {"label": label, **options})
    return Task(name, suite, (file,), cases)


def _stream(name: str, file: str, options: dict[str, Any]) -> Task:
    cases = partial(stream_cases, file, {"label": "label", **options})
    return Task(name, "streams", (file,), cases)


def _sessions(name: str, suite: str, file: str, split: Splitter, **options: Any) -> Task:
    return Task(name, suite, (file,), partial(session_cases, file, split, options))


def _series(name: str, files: list[str], cases: Cases) -> Task:
    return Task(name, "series", tuple(files), cases)


_ADBENCH = (
    *("2_annthyroid", "5_campaign", "11_donors", "16_http", "24_mnist", "32_shuttle"),
    *("34_smtp", "38_thyroid"),
)
_HDFS = partial(half_of_normals, share=HDFS_ANOMALIES)
_HDFS_LABELS = partial(few_labels, share=HDFS_ANOMALIES)
_FLOWS = partial(half_of_normals, share=ATTACKS)
_FLOW_SETS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "unsw_nb15",
        "unsw_nb15/unsw_nb15_82332",
        {"categories": ("proto", "service", "state"), "drop": ("id", "attack_cat")},
    ),
    (
        "kdd99",
        "kdd99/kddcup_10_percent",
        {"categories": ("protocol_type", "service", "flag"), "drop": ("attack",)},
    ),
]
_STREAM_SETS = [*_FLOW_SETS, ("http", "adbench/16_http", {}), ("smtp", "adbench/34_smtp", {})]
_SMD = [f"smd/machine-{n}" for n in ("1-6", "2-1", "2-7", "3-3")]
_ASD = [f"asd/omi-{n}" for n in range(1, 7)]
_DARPA, _ENDS = "darpa98/darpa_edges", ("src", "dst")
_NASA = ["smap_msl/smap", "smap_msl/msl"]


def _pairs(names: list[str]) -> list[str]:
    return [f"{name}_{part}" for name in names for part in ("train", "test")]


TASKS: list[Task] = [
    *(
        _records(name.partition("_")[2], "records", f"adbench/{name}", half_of_normals)
        for name in _ADBENCH
    ),
    *(_records(name, "flows", file, _FLOWS, **more) for name, file, more in _FLOW_SETS),
    _records(
        "annthyroid21", "weak", "devnet/annthyroid_21feat_normalised", few_labels, label="class"
    ),
    _records("campaign", "weak", "adbench/5_campaign", few_labels),
    _records("donors", "weak", "adbench/11_donors", few_labels),
    _series("smd", _pairs(_SMD), partial(series.entities, _SMD)),
    _series("asd", _pairs(_ASD), partial(series.entities, _ASD)),
    _series("smap_msl", _pairs(_NASA), partial(series.channels, _NASA)),
    _series("skab", ["skab/skab", "skab/anomaly_free"], series.experiments),
    _series("nab", ["nab/nab"], series.benchmark),
    _sessions("hdfs", "logs", "hdfs/sessions_loghub", _HDFS),
    _sessions("hdfs_xu", "logs", "hdfs/sessions_xu", _HDFS),
    *(_stream(name, file, more) for name, file, more in _STREAM_SETS),
    _sessions("adfa_ld", "logs", "adfa_ld/traces", half_of_normals, key="trace", events="syscalls"),
    *(
        _records(name, "edges", file, _FLOWS, **more, numbers=False)
        for name, file, more in _FLOW_SETS
    ),
    _records("darpa98", "edges", _DARPA, _FLOWS, categories=_ENDS, most=EDGES, numbers=False),
    Task("darpa98", "graphs", (_DARPA,), partial(graph_cases, _DARPA, _ENDS)),
    Task("skab", "bags", ("skab/skab",), series.labelled_runs),
    _sessions("hdfs", "bags", "hdfs/sessions_loghub", _HDFS_LABELS),
]

SUITES = tuple(dict.fromkeys(task.suite for task in TASKS))
KINDS = {
    "series": "series",
    "logs": "events",
    "edges": "catrec",
    "graphs": "graphwin",
    "bags": "bag",
}
"""Kind of windows of the suites that are not about records."""
WITH_LABELS = ("weak", "bags")
"""Suites in which some of what is fitted on is labelled."""
