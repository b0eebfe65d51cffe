"""Fitting a detector on some of the windows that there are, and scoring others by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.vocabulary import Vocabulary
from detectors.windows import Layout, WindowArrays, WindowEncoder
from schemas.errors import DataError

LEAST = 20
"""Windows below which there is nothing to fit and calibrate on."""


@dataclass(frozen=True, slots=True)
class Learn:
    """Fits a detector, and the vocabularies that it needs, on a part of the windows."""

    layout: Layout
    windows: WindowArrays
    marks: NDArray[np.int8]
    new: Callable[[], Detector]
    budget: Budget | None

    def __call__(
        self, known: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[Detector, WindowEncoder, tuple[Vocabulary, ...]]:
        """Learn vocabularies from the windows ``known`` and fit on ``rows`` of them."""
        windows, steps = self.windows, self.layout.steps
        codes = windows.cat[known][np.arange(steps) < windows.length[known, None]]
        vocabularies = tuple(Vocabulary.fit(codes[:, c]) for c in range(codes.shape[1]))
        encode = WindowEncoder(self.layout, vocabularies)
        fitted = self.new()
        if not fitted.caps.uses_labels:  # it would take known anomalies for normal
            rows = rows[self.marks[rows] != 1]
        fitted.fit(encode(windows[rows]), self.marks[rows], budget=self.budget)
        return fitted, encode, vocabularies

    def scores(self, rows: NDArray[np.int64], unseen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Score ``unseen`` by a fit on ``rows``."""
        fitted, encode, _ = self(rows, rows)
        return scores_of(fitted, encode(self.windows[unseen]))


def marks_of(
    layout: Layout, windows: WindowArrays, labels: NDArray[np.int8] | None
) -> NDArray[np.int8]:
    """Refuse windows that are too few; return their marks."""
    if len(windows) < LEAST:
        msg = (
            f"{layout.stream}/{layout.route}: {len(windows)} windows are too few to fit and "
            f"calibrate on ({LEAST} at least); give more history"
        )
        raise DataError(msg)
    return np.full(len(windows), -1, dtype=np.int8) if labels is None else labels


def windows_per_day(windows: WindowArrays) -> float:
    """Return how many windows a day of event time brings."""
    span = int(windows.time.max()) - int(windows.time.min())
    return len(windows) / max(span / 86_400e9, 1e-6)


def scores_of(detector: Detector, batch: WindowBatch) -> NDArray[np.float64]:
    """Return the ``[B]`` scores of a batch."""
    scores: NDArray[np.float64] = detector.score(batch).score.to("cpu", torch.float64).numpy()
    return scores
