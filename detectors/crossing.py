"""Cross-calibration: every window is scored by a fit that has not seen it, and none is given up.

A history that is cut once into windows to fit and windows to calibrate by is served badly where it
is short: with 600 scores to compare with, a window passes for rarer than one in 500 only if it
scores above all of them, so that a single odd normal window decides what can be found at all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FOLDS = 10
"""Each fit lacks one window in ten. With fewer folds the fits lack so much more than the final one
that rare but normal windows score too high."""


def cross_scores(
    rows: NDArray[np.int64],
    score: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return a score for each of ``rows`` ``[n]``.

    Parameters
    ----------
    rows
        Windows in time order; the folds interleave, so that each fit knows all times.
    score
        Called with the rows to fit on and the rows to score by that fit.

    References
    ----------
    Vovk 2015, *Cross-conformal predictors*.
    """
    fold = np.arange(len(rows)) % FOLDS
    scores = np.empty(len(rows))
    for out in range(FOLDS):
        scores[fold == out] = score(rows[fold != out], rows[fold == out])
    return scores
