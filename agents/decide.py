"""decide: a score becomes a p-value, and an anomaly if it is rarer than the budget allows.

Everything advances by window: in blocks of a fixed number of windows of a partition, within which
the calibration stands still. So a verdict depends on the windows before it, and not on how they
were batched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.calibration import Calibration
from agents.records import Floats, Ints
from agents.snapshot import State, copied, put_back
from detectors.split import FULL, PARTIAL

BLOCK = 1024
HIGHEST_THRESHOLD = 0.01
ENOUGH = 200
FALSE_ALARM_SHARE = 0.5
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
        Scores of normal windows that the model was not fitted on, for full windows and (where
        there are enough) for partial ones; moved along with the stream
        (:mod:`agents.calibration`).
    windows_per_day
        Rate to expect until the partition has shown its own, in windows a day of event time.
    alerts_per_day
        The partition's share of the budget.
    """

    _STATE = ("_windows_per_day", "_in_block", "_seen", "_first_time", "_last_time")

    def __init__(
        self, calibration: dict[str, Floats], windows_per_day: float, alerts_per_day: float
    ) -> None:
        self._full = Calibration(calibration[FULL])
        enough = len(calibration[PARTIAL]) >= ENOUGH
        self._partial = Calibration(calibration[PARTIAL]) if enough else self._full
        self._alerts_per_day = alerts_per_day
        self._windows_per_day = windows_per_day
        self._in_block = 0
        self._seen = 0
        self._first_time = 0
        self._last_time = 0

    @property
    def smallest_exact(self) -> float:
        """The smallest p-value that rests on counting alone; below it the tail speaks."""
        return 1.0 / (len(self._full.recent) + 1)

    @property
    def threshold(self) -> float:
        """p-value at or below which a window is an anomaly now."""
        # false alarms may take a part of the budget; the rest is there for what is real
        false_alarms = FALSE_ALARM_SHARE * self._alerts_per_day
        return min(false_alarms / max(self._windows_per_day, 1e-9), HIGHEST_THRESHOLD)

    def __call__(
        self,
        scores: Floats,
        times: Ints,
        partial: NDArray[np.bool_],
        revised: NDArray[np.bool_] | None = None,
    ) -> Verdicts:
        """Judge ``[W]`` scores of consecutive windows with their event times and kinds.

        Those that are ``revised`` were there before, and teach nothing.
        """
        p_value, threshold = np.empty(len(scores)), np.empty(len(scores))
        fresh = np.ones(len(scores), dtype=bool) if revised is None else ~revised
        count = np.cumsum(fresh)
        at = 0
        while at < len(scores):
            done = 0 if at == 0 else int(count[at - 1])
            stop = int(np.searchsorted(count, done + BLOCK - self._in_block)) + 1
            part = slice(at, min(stop, len(scores)))
            p = self._full.tail.p_values(scores[part])
            if partial[part].any():
                p = np.where(partial[part], self._partial.tail.p_values(scores[part]), p)
            p_value[part], threshold[part] = p, self.threshold
            full = fresh[part] & ~partial[part]
            self._full.keep(scores[part][full], p[full])
            if self._partial is not self._full:
                rest = fresh[part] & partial[part]
                self._partial.keep(scores[part][rest], p[rest])
            self._advance(times[part][fresh[part]])
            at = part.stop
        return Verdicts(p_value, threshold, p_value <= threshold)

    def _advance(self, times: Ints) -> None:
        if not len(times):
            return
        if self._seen == 0:
            self._first_time = int(times[0])
        self._last_time = max(self._last_time, int(times.max()))
        self._seen += len(times)
        self._in_block += len(times)
        if self._in_block < BLOCK:
            return
        self._in_block = 0
        self._full.end_block()
        if self._partial is not self._full:
            self._partial.end_block()
        elapsed = self._last_time - self._first_time
        if elapsed > 0:
            self._windows_per_day = self._seen / (elapsed / _DAY)

    def state(self) -> State:
        """Copy the state."""
        own = None if self._partial is self._full else self._partial.state()
        return {**copied(self, self._STATE), "full": self._full.state(), "partial": own}

    def restore(self, state: State) -> None:
        """Go on from a state that was made with the same model."""
        put_back(self, self._STATE, state)
        self._full.restore(state["full"])
        if self._partial is not self._full:
            self._partial.restore(state["partial"])
