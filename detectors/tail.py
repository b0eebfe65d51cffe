"""P-values of scores: how often a held-out normal window scores as much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

TAIL = 0.1
"""Share of the held-out scores, the largest, that the tail is fitted to."""

GRID = 512
"""Quantiles kept of the scores below the tail."""

LARGEST_SHAPE = 0.5
"""Heaviest tail believed; beyond it the variance is infinite, and a few scores decide the fit."""

LEAST_SCALE = 0.05
"""Least ``sigma`` in widths of the body, that of evenly spread scores: two large scores that happen
to be alike do not make the tail end there."""

ROUNDING = 1e-6
"""Difference of scores, relative to their size and to that of a high one, that counts as none: how
the last digits are rounded depends on the batch, and no score shall pass all those it ties with."""


@dataclass(frozen=True)
class Tail:
    """Distribution of normal scores: quantiles, and a generalised Pareto tail beyond the last.

    Attributes
    ----------
    quantiles
        ``[GRID]`` float64, of evenly spaced probabilities from 0 to ``1 - TAIL``.
    shape, scale
        ``[]`` float64, ``xi`` in 0 .. ``LARGEST_SHAPE`` and ``sigma`` of the excesses.

    References
    ----------
    Pickands 1975 (the tail); Hosking and Wallis 1987 (probability-weighted moments).
    """

    quantiles: Tensor
    shape: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, scores: Tensor) -> Self:
        """Learn from ``[N]`` scores of windows that were not trained on."""
        ordered = scores.double().sort().values
        probabilities = torch.linspace(0, 1 - TAIL, GRID, dtype=torch.float64, device=scores.device)
        quantiles = torch.quantile(ordered, probabilities)
        excess = (ordered - quantiles[-1]).clamp(min=0)[-max(1, round(TAIL * len(ordered))) :]
        rank = torch.arange(len(excess), dtype=torch.float64, device=scores.device)
        first = excess.mean()
        second = (excess * (1 - (rank + 0.65) / len(excess))).mean()
        # how wide the body of a few scores is they cannot say: their size stands for it
        guess = quantiles[-1].abs() / len(ordered)
        spread = torch.maximum(quantiles[-1] - quantiles[0], guess)
        spread = torch.where(spread > 0, spread, 1.0)
        gap = first - 2 * second
        shape = torch.where(gap > 0, 2 - first / gap, 0.0).clamp(0, LARGEST_SHAPE)
        # without excesses, or with equal ones only, the tail is as wide as the body
        scale = torch.where(first > 1e-6 * spread, first * (1 - shape), spread)
        return cls(quantiles, shape, torch.maximum(scale, LEAST_SCALE * spread))

    def surprise(self, scores: Tensor) -> Tensor:
        """``-log p`` of scores ``[B]``, float64; grows with the score without bound."""
        values = scores.double().contiguous()
        values = values - ROUNDING * torch.maximum(values.abs(), self.quantiles[-1].abs())
        place = torch.searchsorted(self.quantiles, values).clamp(1, len(self.quantiles) - 1)
        low, high = self.quantiles[place - 1], self.quantiles[place]
        width = (high - low).clamp(min=1e-300)
        share = ((values - low) / width).clamp(0, 1)
        below = (place - 1 + share) / (len(self.quantiles) - 1) * (1 - TAIL)
        excess = (values - self.quantiles[-1]).clamp(min=0) / self.scale
        heavy = torch.log1p(self.shape * excess) / self.shape.clamp(min=1e-9)
        beyond = torch.where(self.shape > 1e-6, heavy, excess)
        return beyond - torch.log1p(-below)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything learned, as tensors whose names start with ``prefix``."""
        names = ("quantiles", "shape", "scale")
        return {f"{prefix}{name}": getattr(self, name) for name in names}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str) -> Self:
        """Rebuild what :meth:`state` described; ``KeyError`` if a part is missing."""
        return cls(*(state[f"{prefix}{name}"] for name in ("quantiles", "shape", "scale")))
