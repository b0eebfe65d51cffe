"""Robust scaling of numbers, learned at fit and part of a detector's state."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.batch import WindowBatch

CLIP = 10.0
IQR_TO_SIGMA = 1.349


class RobustScaler:
    """``(x - median) / (IQR / 1.349)``, clipped to ±10; missing numbers become 0.

    A feature whose quartiles coincide falls back to its standard deviation, a constant one to 1,
    so that a value never seen before still stands out instead of dividing by zero.
    """

    def __init__(self, center: Tensor, scale: Tensor) -> None:
        self.center = center
        self.scale = scale

    @classmethod
    def fit(cls, batch: WindowBatch) -> RobustScaler:
        """Learn from the real steps of ``batch``; ``[F]`` statistics."""
        values = batch.num[batch.mask].double()
        if len(values) == 0 or values.shape[1] == 0:
            zero = torch.zeros(batch.features, device=batch.num.device)
            return cls(zero, torch.ones_like(zero))
        if len(values) > 200_000:  # quantiles of a sample this large are exact enough
            values = values[:: len(values) // 200_000 + 1]
        quantiles = torch.nanquantile(
            values, values.new_tensor([0.25, 0.5, 0.75]), dim=0
        ).nan_to_num(0.0)
        iqr = (quantiles[2] - quantiles[0]) / IQR_TO_SIGMA
        filled = torch.where(values.isnan(), quantiles[1], values)
        spread = filled.std(dim=0, correction=0)
        tiny = 1e-6 * (1.0 + quantiles[1].abs())
        scale = torch.where(iqr > tiny, iqr, torch.where(spread > tiny, spread, 1.0))
        return cls(quantiles[1].float(), scale.float())

    def __call__(self, num: Tensor) -> Tensor:
        """Scale ``[..., F]`` to float32; no ``NaN`` is left."""
        scaled = ((num - self.center) / self.scale).float()
        return scaled.clamp_(-CLIP, CLIP).nan_to_num_(0.0)

    def inverse(self, scaled: Tensor) -> Tensor:
        """Return to the units of the input."""
        return scaled * self.scale + self.center

    def to(self, device: str) -> RobustScaler:
        """Copy to ``device``."""
        return RobustScaler(self.center.to(device), self.scale.to(device))
