"""Numbers by their rank among those of the fit, for networks that cannot tell fine levels apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CUTS = 128
"""Quantiles that a number is compared with."""

SAMPLE = 20_000
"""Rows whose quantiles are exact enough."""


class Ranks(nn.Module):
    """Adds to each number the share of the fit's numbers below it, as -1 .. 1.

    A network of few examples is smooth in its inputs: levels that lie close together, seen from
    how far the tails reach, are one to it. By rank they are as far apart as they are distinct, what
    trees get from thresholds. The numbers themselves stay beside, since beyond the fit all ranks
    are 1. Gradients pass by way of the numbers only.

    Parameters
    ----------
    columns
        ``D``.

    References
    ----------
    Gorishniy et al. 2022, *On embeddings for numerical features in tabular deep learning*.
    """

    cuts: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("cuts", torch.zeros(columns, 2 * CUTS))

    def learn(self, rows: Tensor) -> None:
        """Take the quantiles of rows ``[N, D]``."""
        if not len(rows):
            return
        ordered = rows[:: -(-len(rows) // SAMPLE)].sort(dim=0).values
        places = torch.linspace(0, len(ordered) - 1, CUTS, device=rows.device).round().long()
        at = ordered[places].T
        # a number equal to some quantiles lies past each of them once, a larger one twice: one
        # search tells the middle of the ranks that equal numbers share
        tiny = torch.finfo(at.dtype).tiny
        past = torch.where(at.abs() < tiny, tiny, torch.nextafter(at, at.new_tensor(torch.inf)))
        self.cuts.copy_(torch.cat([at, past], dim=1).sort(dim=1).values)

    def forward(self, rows: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., 2 D]``; equal numbers share the middle of their ranks."""
        values = rows.detach().flatten(0, -2).T.contiguous()
        ranks = torch.searchsorted(self.cuts, values, right=True, out_int32=True)
        return torch.cat([rows, (ranks / CUTS - 1).T.view_as(rows)], dim=-1)
