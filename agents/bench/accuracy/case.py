"""A case: what is fitted on and what is tested, for detectors and for peers who know only rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detectors import WindowBatch

Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Windows to fit on and windows to test.

    Attributes
    ----------
    fit, test
        As a detector sees them.
    labels
        ``[n]`` of the windows to fit on, 1 anomaly and -1 unlabelled; or none.
    truth
        ``[m]``: which of the tested windows are anomalous.
    flat
        Makes both parts as a matrix of numbers each, one row a window.
    series
        ``[m]``: which series a tested window is of, those of a series together and in time order;
        ``None`` where windows have no order.
    learns
        Whether what was tested is learned from afterwards, as on a stream.
    """

    fit: WindowBatch
    labels: NDArray[np.int8] | None
    test: WindowBatch
    truth: Bools
    flat: Callable[[], tuple[Floats, Floats]]
    series: Rows | None = None
    learns: bool = False


Cases = Callable[[Path, int, int], list[Callable[[], Case]]]
"""Folder of the data sets, seed and most rows to the cases of a task, each made when it is due."""
