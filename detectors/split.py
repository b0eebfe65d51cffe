"""Which windows a model is fitted on, and which calibrate it: never the same ones.

Windows are given in time order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.capabilities import Capabilities

FULL, PARTIAL = "full", "partial"
CALIBRATION_SHARE = 0.3
CALIBRATION_SIZE = 8192
BEFORE_LEAST = 1000


def held_out(partial: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Choose the calibration windows among windows in time order.

    The newest of the full ones; of the partial ones, which all stand at the beginning where keys
    are new, evenly every few.
    """
    held = np.zeros(len(partial), dtype=bool)
    full = np.flatnonzero(~partial)
    held[full[int(len(full) * (1 - CALIBRATION_SHARE)) :]] = True
    short = np.flatnonzero(partial)
    held[short[:: max(1, round(1 / CALIBRATION_SHARE))]] = True
    return held


def is_crossed(caps: Capabilities, partial: NDArray[np.bool_]) -> bool:
    """Whether windows, which are ``partial`` in time order, calibrate crosswise.

    Only where most are not full, as sessions are: among windows that slide along a series, a fit
    on both neighbours of a window has as good as seen it.
    """
    few = len(partial) * CALIBRATION_SHARE < CALIBRATION_SIZE
    return few and caps.loop == "statistics" and 2 * int(partial.sum()) > len(partial)


def up_to_date(
    order: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    change: int,
    keep: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Take the chosen windows, of those before position ``change`` as many as after it."""
    before, after = order[:change][chosen[:change]], order[change:][chosen[change:]]
    limit = max(len(after), BEFORE_LEAST)
    return np.concatenate([spread(before, limit, keep), after])


def spread(
    index: NDArray[np.int64], limit: int, keep: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Thin an index evenly to ``limit``, but never drop what ``keep`` marks."""
    if len(index) <= limit:
        return index
    chosen = np.zeros(len(index), dtype=bool)
    chosen[np.linspace(0, len(index) - 1, limit).astype(np.int64)] = True
    if keep is not None:
        chosen |= keep[index]
    return index[chosen]


def calibration_of(
    partial: NDArray[np.bool_], scores: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Keep the scores of full and of partial windows apart, thinned."""
    found = {}
    for kind, which in ((FULL, ~partial), (PARTIAL, partial)):
        found[kind] = scores[spread(np.flatnonzero(which), CALIBRATION_SIZE)]
    if not len(found[FULL]):  # windows that are hardly ever full, such as sessions
        found[FULL] = found[PARTIAL]
    return found
