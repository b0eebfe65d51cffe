"""Columns of equal width: what lies close together counts as much as what lies far apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.inputs import LEAST_SPAN

REACH = 6.0
"""Range of every column over the rows of the fit: about that of three sigmas to either side, for
which learning rates are made."""


class EqualWidths(nn.Module):
    """Maps columns to 0 .. ``REACH`` by their range at fit, without clipping, and ranks to 0 .. 2.

    Parameters
    ----------
    columns
        How many; their ranks, -1 .. 1, stand behind them.
    """

    low: Tensor
    span: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        unit = torch.ones(columns)
        self.register_buffer("low", torch.cat([torch.zeros(columns), -unit]))
        self.register_buffer("span", torch.cat([unit, REACH * unit]))

    def learn(self, rows: Tensor) -> None:
        """Set the ranges by rows ``[N, 2 columns]``; a constant column keeps its unit."""
        n = len(self.low) // 2
        low, high = rows[:, :n].amin(dim=0), rows[:, :n].amax(dim=0)
        self.low[:n] = low
        self.span[:n] = torch.where(high - low < LEAST_SPAN, 1.0, high - low)

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, 2 columns]`` to the same."""
        return REACH * (rows - self.low) / self.span
