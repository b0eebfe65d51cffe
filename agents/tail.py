"""p-values of scores: by rank among calibration scores, by an extreme-value tail beyond them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.records import Floats
from detectors.tail import ROUNDING

QUANTILE = 0.98
FEWEST = 10
FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class Tail:
    """Scores of normal windows, and a generalised Pareto law for what lies beyond them.

    Attributes
    ----------
    ordered
        ``[n]`` calibration scores, ascending.
    start, share
        Where the tail begins, and the share of calibration scores beyond.
    shape, scale
        Parameters of the law of the excess over ``start``.
    """

    ordered: Floats
    start: float
    share: float
    shape: float
    scale: float

    @classmethod
    def fit(cls, scores: Floats) -> Tail:
        """Fit by probability-weighted moments (Hosking & Wallis 1987).

        They exist for shapes below 1 and, unlike plain moments, do not understate heavy tails.
        Where ties leave too few excesses the tail starts at the largest score and falls off
        exponentially with the spread of the scores.
        """
        ordered = np.sort(scores)
        n = len(ordered)
        start = float(ordered[min(int(QUANTILE * n), n - 1)])
        excess = ordered[ordered > start] - start
        if len(excess) < FEWEST:
            top = float(ordered[-1])
            # where nearly all scores are equal, their size is the only measure of distance
            least = 0.1 * (1.0 + abs(top))
            spread = max(top - float(np.median(ordered)), float(ordered.std()), least)
            return cls(ordered, top, 1.0 / (n + 1), 0.0, spread)
        m = len(excess)
        mean = float(excess.mean())
        weighted = float((excess * (m - 1 - np.arange(m))).sum() / (m * (m - 1)))
        denominator = mean - 2.0 * weighted
        if denominator <= 1e-12 * mean:
            return cls(ordered, start, m / n, 0.0, mean)
        shape = min(max(2.0 - mean / denominator, -0.5), 0.9)
        return cls(ordered, start, m / n, shape, 2.0 * mean * weighted / denominator)

    def p_values(self, scores: Floats) -> Floats:
        """Return the ``[n]`` chances that a normal window scores at least as high."""
        n = len(self.ordered)
        scores = scores - ROUNDING * np.maximum(np.abs(scores), abs(self.start))
        at_least = n - np.searchsorted(self.ordered, scores, side="left")
        p = (1.0 + at_least) / (n + 1.0)
        beyond = np.maximum(scores - self.start, 0.0) / self.scale
        if abs(self.shape) < 1e-6:
            tail = np.exp(-beyond)
        else:
            base = np.maximum(1.0 + self.shape * beyond, 0.0)
            with np.errstate(divide="ignore"):
                tail = base ** (-1.0 / self.shape)
        return np.where(scores > self.start, np.maximum(np.minimum(p, self.share * tail), FLOOR), p)
