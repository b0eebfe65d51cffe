"""What scores of normal windows look like: the model's own, moved along with the stream."""

from __future__ import annotations

import numpy as np

from agents.records import Floats
from agents.snapshot import State
from agents.tail import Tail
from detectors.split import CALIBRATION_SIZE

RARE = 0.02
BULK = 0.9
TOO_HEAVY = (0.02, 0.005)
DEVIATIONS = 2.0


class Calibration:
    """Scores of normal windows of one kind, and the tail fitted to them.

    Most windows of a stream are normal, so where the bulk of its scores lies is learned from the
    stream. Of its rare windows nobody can tell which are normal: were they all kept, anomalies of
    one kind would become the calibration that they are judged by; were they left out, the
    remaining windows would look ever rarer. So the shape of the tail is the model's, from windows
    of its history, and moves and stretches with the bulk.

    Anomalies make a tail heavier, never lighter. Where the stream has clearly fewer high scores
    than the model's tail says, it is the model's windows that held anomalies, or that were not
    those of this stream, and the stream's own tail takes its place, but nowhere a heavier one: what
    is rarer than both is the stream's own anomalies.
    """

    def __init__(self, scores: Floats) -> None:
        self._model = np.sort(np.asarray(scores, dtype=np.float64)[-CALIBRATION_SIZE:])
        self._levels = (np.arange(len(self._model)) + 0.5) / len(self._model)
        self._set(self._model)
        self._common = self._model[self.tail.p_values(self._model) > RARE]
        self._seen = np.empty(0)
        self._block: list[Floats] = []
        self._block_common: list[Floats] = []

    def _set(self, scores: Floats) -> None:
        self.recent, self.tail = scores, Tail.fit(scores)

    def keep(self, scores: Floats, p_values: Floats) -> None:
        """Take in the scores of consecutive windows, with the p-values they were given."""
        self._block.append(scores)
        self._block_common.append(scores[p_values > RARE])

    def end_block(self) -> None:
        """Let the scores that were taken in count from now on."""
        if any(map(len, self._block)):
            self._seen = _newest([self._seen, *self._block])
            self._common = _newest([self._common, *self._block_common])
            moved = self._moved()
            self._set(self._lighter(moved) if self._is_too_heavy(moved) else moved)
        self._block, self._block_common = [], []

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

    def _is_too_heavy(self, moved: Floats) -> bool:
        """Tell whether the stream reaches the moved tail clearly less often than it says."""
        for level in _quantiles(moved, 1 - np.array(TOO_HEAVY)):
            expected = len(self._seen) * float((moved > level).mean())
            if (self._seen > level).sum() < expected - DEVIATIONS * expected**0.5:
                return True
        return False

    def _lighter(self, moved: Floats) -> Floats:
        """Return the moved scores with the stream's own tail where that is lighter."""
        bulk = self._levels <= BULK
        own = _quantiles(np.sort(self._seen), self._levels[~bulk])
        own = np.minimum(own, moved[~bulk])
        return np.concatenate([moved[bulk], np.maximum(own, moved[bulk].max(initial=-np.inf))])

    def state(self) -> State:
        """Return what has been learned of the stream."""
        return {
            "recent": self.recent.copy(),
            "common": self._common.copy(),
            "seen": self._seen.copy(),
            "block": np.concatenate([np.empty(0), *self._block]),
            "block_common": np.concatenate([np.empty(0), *self._block_common]),
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._set(state["recent"].copy())
        self._common, self._seen = state["common"].copy(), state["seen"].copy()
        self._block = [state["block"].copy()]
        self._block_common = [state["block_common"].copy()]


def _newest(parts: list[Floats]) -> Floats:
    return np.concatenate(parts)[-CALIBRATION_SIZE:]


def _quantiles(ordered: Floats, levels: Floats) -> Floats:
    """Return quantiles of ascending scores; many times faster than NumPy's for many levels."""
    return np.interp(levels * (len(ordered) - 1), np.arange(len(ordered)), ordered)
