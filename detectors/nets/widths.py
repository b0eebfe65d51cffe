"""Columns of equal width: what lies close together counts as much as what lies far apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.inputs import LEAST_SPAN

REACH = 6.0
"""Range of every column over the rows of the fit: about that of three sigmas to either side, for
which learning rates are made."""


class EqualWidths(nn.Module):
    """Maps columns to 0 .. ``REACH`` by their range at fit, without clipping."""

    low: Tensor
    span: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(columns))
        self.register_buffer("span", torch.ones(columns))

    def learn(self, rows: Tensor) -> None:
        """Set the ranges by rows ``[N, D]``; a constant column keeps its unit."""
        low, high = rows.amin(dim=0), rows.amax(dim=0)
        self.low.copy_(low)
        self.span.copy_(torch.where(high - low < LEAST_SPAN, 1.0, high - low))

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to the same."""
        return REACH * (rows - self.low) / self.span
