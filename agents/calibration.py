"""What scores of normal windows look like: the model's own, moved along with the stream."""

from __future__ import annotations

import numpy as np

from agents.records import Floats
from agents.snapshot import State
from agents.tail import Tail
from detectors.split import CALIBRATION_SIZE

RARE = 0.02
BULK = 0.9


class Calibration:
    """Scores of normal windows of one kind, and the tail fitted to them.

    Most windows of a stream are normal, so where the bulk of its scores lies is learned from the
    stream. Of its rare windows nobody can tell which are normal: were they all kept, anomalies of
    one kind would become the calibration that they are judged by; were they left out, the
    remaining windows would look ever rarer. So the shape of the tail is the model's, from windows
    of its history, and moves and stretches with the bulk.
    """

    def __init__(self, scores: Floats) -> None:
        self._model = np.sort(np.asarray(scores, dtype=np.float64)[-CALIBRATION_SIZE:])
        self._levels = (np.arange(len(self._model)) + 0.5) / len(self._model)
        self._set(self._model)
        self._common = self._model[self.tail.p_values(self._model) > RARE]
        self._block: list[Floats] = []

    def _set(self, scores: Floats) -> None:
        self.recent, self.tail = scores, Tail.fit(scores)

    def keep(self, scores: Floats, p_values: Floats) -> None:
        """Take in the scores of windows that are not rare."""
        self._block.append(scores[p_values > RARE])

    def end_block(self) -> None:
        """Let the scores that were taken in count from now on."""
        if any(map(len, self._block)):
            self._common = np.concatenate([self._common, *self._block])[-CALIBRATION_SIZE:]
            self._set(self._moved())
        self._block = []

    def _moved(self) -> Floats:
        """Return the model's scores with the bulk of the stream's in their place."""
        bulk = self._levels <= BULK
        # the rarest are missing among the common ones
        levels = np.append(self._levels[bulk], [0.5, BULK]) / (1 - RARE)
        moved = _quantiles(np.sort(self._common), levels)
        body, (middle, top) = moved[:-2], moved[-2:]
        model_middle, model_top = _quantiles(self._model, np.array([0.5, BULK]))
        stretch = 1.0
        if model_top > model_middle and top > middle:
            stretch = (top - middle) / (model_top - model_middle)
        beyond = top + (self._model[~bulk] - model_top) * stretch
        return np.concatenate([body, beyond])

    def state(self) -> State:
        """Return what has been learned of the stream."""
        block = np.concatenate([np.empty(0), *self._block])
        return {"recent": self.recent.copy(), "common": self._common.copy(), "block": block}

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._set(state["recent"].copy())
        self._common, self._block = state["common"].copy(), [state["block"].copy()]


def _quantiles(ordered: Floats, levels: Floats) -> Floats:
    """Return quantiles of ascending scores; many times faster than NumPy's for many levels."""
    return np.interp(levels * (len(ordered) - 1), np.arange(len(ordered)), ordered)
