"""How labelled rows are split into those to fit on and those to test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.bench.accuracy.case import Bools, Rows

LABELLED = 30
CONTAMINATION = 0.02


@dataclass(frozen=True)
class Split:
    """Rows to fit on with labels (1 anomaly, -1 unlabelled), or none, and rows to test."""

    fit: Rows
    labels: NDArray[np.int8] | None
    test: Rows


Splitter = Callable[[Bools, np.random.Generator, int], Split]


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
    drawn = odd[: _beside(test, wanted)]
    return Split(fit, None, np.concatenate([test, drawn]))


def few_labels(
    anomalous: Bools, rng: np.random.Generator, rows: int, share: float | None = None
) -> Split:
    """Fit on 80 % of the rows, of which 30 anomalies have labels and 2 % are hidden ones.

    The protocol of Pang et al. 2019 (DevNet), with at most ``rows`` rows to fit on and to test.
    ``share`` is that of anomalies in the test, by default as among all rows.
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
    wanted = share if share is not None else len(odd) / len(anomalous)
    drawn = odd[known:][: _beside(rest, wanted)]
    test = np.concatenate([rest, drawn])
    return Split(fit[order], labels[order], test)


def _beside(normals: Rows, share: float) -> int:
    """How many anomalies make up that share beside the normal rows; at least one."""
    return max(1, round(len(normals) * share / (1 - share)))


def _shuffled(anomalous: Bools, rng: np.random.Generator) -> tuple[Rows, Rows]:
    return rng.permutation(np.flatnonzero(~anomalous)), rng.permutation(np.flatnonzero(anomalous))
