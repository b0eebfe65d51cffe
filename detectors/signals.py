"""What drift is looked for in: the level of the score and of each number, block by block."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.windows import Layout, WindowArrays

SCORE = "score"
BLOCK = 64
SCORE_FLOOR = 0.1


class Reference(msgspec.Struct, frozen=True):
    """Mean and spread of a signal's levels over blocks of normal windows."""

    mean: float
    spread: float


def log_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compress scores, whose scale is each detector's own; negative ones keep their order."""
    return np.sign(scores) * np.log1p(np.abs(scores))


def signals(windows: WindowArrays, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[W, 1 + F]`` what drift is looked for in: log scores, numbers of the last step."""
    last = windows.num[np.arange(len(windows)), windows.length - 1].astype(np.float64)
    return np.concatenate([log_scores(scores)[:, None], last], axis=1)


def block_levels(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the levels ``[..., 1 + F]`` of blocks ``[..., n, 1 + F]`` of :func:`signals`.

    The median for numbers: it hardly feels anomalies, but a drift moves it. The mean for the log
    score, since the scores of some detectors are mostly zero and so is their median.
    """
    missing = np.isnan(blocks)
    present = ~np.all(missing, axis=-2, keepdims=True)
    median = np.nanmedian if missing.any() else np.median  # the latter is far faster
    levels: NDArray[np.float64] = median(np.where(present, blocks, 0.0), axis=-2)
    levels[..., 0] = blocks[..., 0].mean(axis=-1)
    return np.where(present[..., 0, :], levels, np.nan)


def references(
    layout: Layout, windows: WindowArrays, scores: NDArray[np.float64]
) -> dict[str, Reference]:
    """Say how the levels of blocks lay on normal windows, for the score and each number."""
    values = signals(windows, scores)
    blocks = max(len(values) // BLOCK, 1)
    levels = np.stack([block_levels(part) for part in np.array_split(values, blocks)])
    present = ~np.isnan(values).all(axis=0)
    spreads = np.nanstd(np.where(present, values, 0.0), axis=0)
    within = spreads * 1.25 / np.sqrt(BLOCK)  # of a median of independent draws
    reference = {}
    for index, name in enumerate([SCORE, *layout.numbers]):
        column = levels[:, index][~np.isnan(levels[:, index])]
        if len(column):
            mean, spread = float(column.mean()), float(column.std())
            # a few anomalies in a block are no drift of the score
            floor = SCORE_FLOOR if name == SCORE else 1e-3 * (1.0 + abs(mean))
            reference[name] = Reference(mean, max(spread, float(within[index]), floor))
    return reference
