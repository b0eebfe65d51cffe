"""Columns of equal width: what lies close together counts as much as what lies far apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.inputs import LEAST_SPAN

REACH = 6.0
"""Range of every column over the rows of the fit: about that of three sigmas to either side, for
which learning rates are made."""


class EqualWidths(nn.Module):
    """Maps columns to 0 .. ``REACH`` by their range at fit, without clipping.

    Parameters
    ----------
    columns
        How many.
    ranks
        Columns behind them that are ranks, -1 .. 1: they become 0 .. 2, and weigh less.
    """

    low: Tensor
    span: Tensor

    def __init__(self, columns: int, ranks: int = 0) -> None:
        super().__init__()
        self.columns = columns
        self.register_buffer("low", torch.cat([torch.zeros(columns), -torch.ones(ranks)]))
        self.register_buffer("span", torch.cat([torch.ones(columns), torch.full((ranks,), REACH)]))

    def learn(self, rows: Tensor) -> None:
        """Set the ranges by rows ``[N, D]``; a constant column keeps its unit."""
        rows, n = rows[:, : self.columns], self.columns
        low, high = rows.amin(dim=0), rows.amax(dim=0)
        self.low[:n] = low
        self.span[:n] = torch.where(high - low < LEAST_SPAN, 1.0, high - low)

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to the same."""
        return REACH * (rows - self.low) / self.span
