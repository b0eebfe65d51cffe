"""Robust scaling of numbers, learned at fit and part of a detector's state."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from detectors.batch import WindowBatch

IQR_TO_SIGMA = 1.349
TAIL = 1e-3
"""Share of the values at either end that is the tail."""

REACH = 10.0
"""How many times as far from the median as the tail begins a value may count: rare values that are
normal widen the scale, and few outliers hardly do."""

SAMPLE = 200_000
"""Steps whose quantiles are exact enough."""


class RobustScaler:
    """``(x - median) / scale``, clipped to ±100; missing numbers become 0.

    The scale is the IQR / 1.349 or, where it is larger, the standard deviation of values winsorised
    at ``REACH`` times the 0.1 % and 99.9 % quantiles from the median: heavy tails that are normal
    do not look like anomalies, and outliers that are one in 2,000 stretch it by a quarter at most.
    A feature that neither tells falls back to its standard deviation, a constant one to 1, so that
    a value never seen before still stands out instead of dividing by zero.
    """

    limit: ClassVar[float] = 100.0
    tails: ClassVar[bool] = True

    def __init__(self, center: Tensor, scale: Tensor) -> None:
        self.center = center
        self.scale = scale

    @classmethod
    def fit(cls, batch: WindowBatch) -> Self:
        """Learn from the real steps of ``batch``; ``[F]`` statistics."""
        values = batch.num[batch.mask].double()
        if len(values) == 0 or values.shape[1] == 0:
            zero = torch.zeros(batch.features, device=batch.num.device)
            return cls(zero, torch.ones_like(zero))
        if len(values) > SAMPLE:
            values = values[:: len(values) // SAMPLE + 1]
        shares = values.new_tensor([TAIL, 0.25, 0.5, 0.75, 1.0 - TAIL])
        low, first, median, third, high = torch.nanquantile(values, shares, dim=0).nan_to_num(0.0)
        filled = torch.where(values.isnan(), median, values)
        unit = (third - first) / IQR_TO_SIGMA
        if cls.tails:
            low, high = (median + REACH * (end - median) for end in (low, high))
            unit = torch.maximum(unit, filled.clamp(low, high).std(dim=0, correction=0))
        spread = filled.std(dim=0, correction=0)
        tiny = 1e-6 * (1.0 + median.abs())
        scale = torch.where(unit > tiny, unit, torch.where(spread > tiny, spread, 1.0))
        return cls(median.float(), scale.float())

    def __call__(self, num: Tensor) -> Tensor:
        """Scale ``[..., F]`` to float32; no ``NaN`` is left."""
        scaled = torch.sub(num, self.center).div_(self.scale).float()
        scaled.clamp_(-self.limit, self.limit)
        # on a CPU a sum tells in a quarter of the time whether there is anything to replace
        if not scaled.is_cpu or scaled.sum().isnan():
            scaled.nan_to_num_(0.0)
        return scaled

    def inverse(self, scaled: Tensor) -> Tensor:
        """Return to the units of the input."""
        return scaled * self.scale + self.center

    def to(self, device: str) -> Self:
        """Copy to ``device``."""
        return type(self)(self.center.to(device), self.scale.to(device))


class QuartileScaler(RobustScaler):
    """``(x - median) / (IQR / 1.349)``, clipped to ±10.

    For who cannot learn from a few examples that beyond some size more of it means no more, or
    loses sight of all else when one number is very large.
    """

    limit = 10.0
    tails = False
