"""Dirichlet distributions of the answers of a classifier, by maximum likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

EULER = 0.5772156649015329

ROUNDS = 100
"""Most rounds of Newton's method; it nearly always comes to rest before."""

REST = 1e-6
"""Relative change of all parameters below which it has come to rest."""

BOUNDS = (1e-6, 1e6)
"""Least and largest parameters: those of draws that are all equal have no limit."""


def fit_dirichlet(mean: Tensor, mean_log: Tensor) -> Tensor:
    """Parameters ``[n, K]`` of ``n`` distributions.

    Parameters
    ----------
    mean, mean_log
        ``[n, K]`` float64: means of draws from each of them and of their logarithms, which are all
        that matters of the draws.

    References
    ----------
    Minka 2000, *Estimating a Dirichlet distribution* (the step, which needs no matrix).
    """
    gap = (torch.xlogy(mean, mean) - mean * mean_log).sum(dim=-1, keepdim=True)
    alpha = (mean * (mean.shape[-1] - 1) * EULER / gap.clamp(min=1e-9)).clamp(*BOUNDS)
    for _ in range(ROUNDS):
        last, alpha = alpha, _step(alpha, mean_log).clamp(*BOUNDS)
        if bool(((alpha - last).abs() <= REST * last).all()):
            break
    return alpha


def _step(alpha: Tensor, mean_log: Tensor) -> Tensor:
    """One step of Newton's method; where it would leave the positive numbers, a halving."""
    total = alpha.sum(dim=-1, keepdim=True)
    slope = torch.digamma(total) - torch.digamma(alpha) + mean_log
    own, common = -torch.polygamma(1, alpha), torch.polygamma(1, total)
    pull = (slope / own).sum(dim=-1, keepdim=True) / (1 / common + (1 / own).sum(-1, keepdim=True))
    moved = alpha - (slope - pull) / own
    return torch.where(moved > 0, moved, alpha / 2)
