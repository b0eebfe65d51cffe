"""Numbers by their rank among those of the fit, for networks that cannot tell fine levels apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch

CUTS = 128
"""Quantiles that a number is compared with."""


class Ranks(nn.Module):
    """Adds to each number the share of the fit's numbers below it, as -1 .. 1.

    A network of few examples is smooth in its inputs: levels that lie close together, seen from
    how far the tails reach, are one to it. By rank they are as far apart as they are distinct, what
    trees get from thresholds. The numbers themselves stay beside, since beyond the fit all ranks
    are 1.

    Parameters
    ----------
    features
        ``F``.

    References
    ----------
    Gorishniy et al. 2022, *On embeddings for numerical features in tabular deep learning*.
    """

    cuts: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("cuts", torch.zeros(features, CUTS))

    def learn(self, data: WindowBatch) -> None:
        """Take the quantiles of the real steps of windows."""
        values = data.num[data.mask]
        if len(values):
            ordered = values.sort(dim=0).values
            places = torch.linspace(0, len(values) - 1, CUTS, device=values.device).round().long()
            self.cuts.copy_(ordered[places].T)

    def forward(self, num: Tensor) -> Tensor:
        """``[B, T, F]`` to ``[B, T, 2 F]``; equal numbers share the middle of their ranks."""
        values = num.flatten(0, 1).T.contiguous()
        below = torch.searchsorted(self.cuts, values)
        upto = torch.searchsorted(self.cuts, values, right=True)
        ranks = (below + upto).to(num.dtype) / CUTS - 1
        return torch.cat([num, ranks.T.view_as(num)], dim=-1)
