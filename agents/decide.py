"""decide: a score becomes a p-value, and an anomaly if it is rarer than the budget allows.

Everything advances by window: in blocks of a fixed number of windows of a partition, within which
the calibration stands still. So a verdict depends on the windows before it, and not on how they
were batched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.records import Floats, Ints
from agents.tail import Tail

BLOCK = 1024
CALIBRATION_SIZE = 8192
HIGHEST_THRESHOLD = 0.01
_DAY = 86_400e9


@dataclass(frozen=True, slots=True)
class Verdicts:
    """``[W]`` p-values, the threshold that held for each, and whether it is an anomaly."""

    p_value: Floats
    threshold: Floats
    is_anomaly: NDArray[np.bool_]


class Decider:
    """Calibration and threshold of one route in one partition.

    Parameters
    ----------
    calibration
        Scores of normal windows that the model was not fitted on; replaced little by little by
        the scores of the stream's own normal windows.
    windows_per_day
        Rate to expect until the partition has shown its own, in windows a day of event time.
    alerts_per_day
        The partition's share of the budget.
    """

    def __init__(self, calibration: Floats, windows_per_day: float, alerts_per_day: float) -> None:
        self._recent = np.asarray(calibration, dtype=np.float64)[-CALIBRATION_SIZE:]
        self._tail = Tail.fit(self._recent)
        self._alerts_per_day = alerts_per_day
        self._threshold = self._threshold_at(windows_per_day)
        self._block: list[Floats] = []
        self._in_block = 0
        self._seen = 0
        self._first_time = 0
        self._last_time = 0

    @property
    def smallest_exact(self) -> float:
        """The smallest p-value that rests on counting alone; below it the tail speaks."""
        return 1.0 / (len(self._recent) + 1)

    @property
    def threshold(self) -> float:
        """p-value at or below which a window is an anomaly now."""
        return self._threshold

    def __call__(self, scores: Floats, times: Ints) -> Verdicts:
        """Judge ``[W]`` scores of consecutive windows with their event times."""
        p_value, threshold = np.empty(len(scores)), np.empty(len(scores))
        at = 0
        while at < len(scores):
            take = min(BLOCK - self._in_block, len(scores) - at)
            part = slice(at, at + take)
            p_value[part] = self._tail.p_values(scores[part])
            threshold[part] = self._threshold
            normal = p_value[part] > self._threshold
            self._advance(scores[part][normal], times[part])
            at += take
        return Verdicts(p_value, threshold, p_value <= threshold)

    def _advance(self, normal: Floats, times: Ints) -> None:
        if self._seen == 0:
            self._first_time = int(times[0])
        self._last_time = max(self._last_time, int(times.max()))
        self._seen += len(times)
        self._block.append(normal)
        self._in_block += len(times)
        if self._in_block == BLOCK:
            joined = np.concatenate([self._recent, *self._block])
            self._recent = joined[-max(len(self._recent), CALIBRATION_SIZE) :]
            self._tail = Tail.fit(self._recent)
            elapsed = self._last_time - self._first_time
            if elapsed > 0:
                self._threshold = self._threshold_at(self._seen / (elapsed / _DAY))
            self._block, self._in_block = [], 0

    def _threshold_at(self, windows_per_day: float) -> float:
        return min(self._alerts_per_day / max(windows_per_day, 1e-9), HIGHEST_THRESHOLD)
