"""What is measured on: data sets, and how each is split into rows to fit on and rows to test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bench.accuracy.table import Bools, Rows, Table
from schemas.errors import DataError

ATTACKS = 0.05
LABELLED = 30
CONTAMINATION = 0.02


@dataclass(frozen=True)
class Split:
    """Rows to fit on with labels (1 anomaly, -1 unlabelled), or none, and rows to test."""

    fit: Rows
    labels: NDArray[np.int8] | None
    test: Rows


Splitter = Callable[[Bools, np.random.Generator, int], Split]


@dataclass(frozen=True)
class Task:
    """One data set under one protocol."""

    name: str
    suite: str
    path: str
    split: Splitter
    label: str = "label"
    options: dict[str, Any] = field(default_factory=dict)

    def find(self, folder: Path) -> None:
        """Raise :class:`DataError` if the data set is not in the folder."""
        path = folder / f"{self.path}.parquet"
        if not path.is_file():
            msg = f"{path}: no such file; --data names the folder of the public data sets"
            raise DataError(msg)

    def read(self, folder: Path) -> Table:
        """Read the data set."""
        return Table.read(folder, self.path, label=self.label, **self.options)

    def divide(self, table: Table, seed: int, rows: int) -> Split:
        """Draw a split with at most ``rows`` rows on each side."""
        return self.split(table.anomalous, np.random.default_rng(seed), rows)


def half_of_normals(
    anomalous: Bools, rng: np.random.Generator, rows: int, share: float | None = None
) -> Split:
    """Fit on half of the normal rows, test on the other half and on anomalies.

    ``share`` is that of anomalies in the test, by default as among all rows.
    """
    normal, odd = _shuffled(anomalous, rng)
    half = len(normal) // 2
    fit, test = normal[:half][:rows], normal[half:][:rows]
    wanted = share if share is not None else len(odd) / (len(odd) + len(normal) - half)
    drawn = odd[: max(1, round(len(test) * wanted / (1 - wanted)))]
    return Split(fit, None, np.concatenate([test, drawn]))


def few_labels(anomalous: Bools, rng: np.random.Generator, rows: int) -> Split:
    """Fit on 80 % of the rows, of which 30 anomalies have labels and 2 % are hidden ones.

    The protocol of Pang et al. 2019 (DevNet), with at most ``rows`` rows to fit on and to test.
    """
    normal, odd = _shuffled(anomalous, rng)
    normals, known = round(0.8 * len(normal)), round(0.8 * len(odd))
    taken = normal[:normals][:rows]
    hidden = round(CONTAMINATION / (1 - CONTAMINATION) * len(taken))
    labelled, unlabelled = odd[:LABELLED], odd[LABELLED:known][:hidden]
    fit = np.concatenate([labelled, unlabelled, taken])
    labels = np.full(len(fit), -1, dtype=np.int8)
    labels[:LABELLED] = 1
    order = rng.permutation(len(fit))
    rest = normal[normals:][:rows]
    drawn = odd[known:][: max(1, round(len(odd) / len(normal) * len(rest)))]
    test = np.concatenate([rest, drawn])
    return Split(fit[order], labels[order], test)


def _shuffled(anomalous: Bools, rng: np.random.Generator) -> tuple[Rows, Rows]:
    return rng.permutation(np.flatnonzero(~anomalous)), rng.permutation(np.flatnonzero(anomalous))


_ADBENCH = (
    *("2_annthyroid", "5_campaign", "11_donors", "16_http", "24_mnist", "32_shuttle"),
    *("34_smtp", "38_thyroid"),
)
_FLOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "unsw_nb15": (
        "unsw_nb15/unsw_nb15_82332",
        {"categories": ("proto", "service", "state"), "drop": ("id", "attack_cat")},
    ),
    "kdd99": (
        "kdd99/kddcup_10_percent",
        {"categories": ("protocol_type", "service", "flag"), "drop": ("attack",)},
    ),
}

TASKS: list[Task] = [
    *(
        Task(name.partition("_")[2], "records", f"adbench/{name}", half_of_normals)
        for name in _ADBENCH
    ),
    *(
        Task(name, "flows", path, partial(half_of_normals, share=ATTACKS), options=more)
        for name, (path, more) in _FLOWS.items()
    ),
    Task("annthyroid21", "weak", "devnet/annthyroid_21feat_normalised", few_labels, "class"),
    Task("campaign", "weak", "adbench/5_campaign", few_labels),
    Task("donors", "weak", "adbench/11_donors", few_labels),
]

SUITES = tuple(dict.fromkeys(task.suite for task in TASKS))
