"""One-class support vector machines: hyperplanes between the origin and most of the windows.

Schölkopf et al. 2001, "Estimating the support of a high-dimensional distribution".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.loops.moments import MAX_MEMORY

ROUNDS = 100
"""Steps of the solver; each is free of a learning rate and brings the weights nearer."""

LEAST_SPREAD = 1e-4
"""Spread of what a machine says below which all windows are alike but for rounding."""


class OneClassMachines(nn.Module):
    """``M`` one-class support vector machines side by side, linear in features of their own.

    Each minimises ``0.5 |w|² - rho + sum_i max(0, rho - w . h_i) / (nu N)``; what has
    ``rho - w . h > 0`` lies outside.

    Parameters
    ----------
    machines, features
        ``M``, and the number ``R`` of features.

    Attributes
    ----------
    weight, rho
        ``[M, R]`` and ``[M]``.
    spread
        ``[M]``: standard deviations of ``w . h`` over the windows of the fit.
    count
        ``[]`` float64, windows that the machines were fitted to.
    """

    spread: Tensor
    count: Tensor

    def __init__(self, machines: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(machines, features))
        self.rho = nn.Parameter(torch.zeros(machines))
        self.register_buffer("spread", torch.ones(machines))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def outputs(self, features: Tensor) -> Tensor:
        """``w . h`` of features ``[B, M, R]``, ``[B, M]``."""
        return torch.einsum("bmr,mr->bm", features, self.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Mean over the machines of ``(rho - w . h) / spread``, ``[B]``."""
        return ((self.rho - self.outputs(features)) / self.spread).mean(dim=1)

    def objective(self, features: Tensor, nu: float) -> Tensor:
        """Say what each window adds to what is minimised, ``[B]``; their mean is that."""
        outside = (self.rho - self.outputs(features)).clamp(min=0)
        ridge = 0.5 * self.weight.square().sum(dim=1)
        return (ridge - self.rho + outside / nu).sum(dim=1)

    def solve(self, features: Tensor, nu: float) -> None:
        """Find the weights for features ``[N, M, R]``.

        The best weights are the shortest vector among all means of features in which none counts
        for more than ``1 / (nu N)``. The method of Frank and Wolfe (1956) starts at the mean of all
        and goes again and again towards the mean of those that are most outside, just as far as
        makes the weights shortest.
        """
        h = features.transpose(0, 1).contiguous()
        weight = h.mean(dim=1, keepdim=True)
        worst = max(1, round(nu * len(features)))
        for _ in range(ROUNDS):
            outputs = h @ weight.mT
            chosen = outputs.topk(worst, dim=1, largest=False).indices
            share = torch.zeros_like(outputs).scatter_(1, chosen, 1.0 / worst)
            way = share.mT @ h - weight
            length = way.square().sum(dim=2, keepdim=True).clamp(min=torch.finfo(way.dtype).tiny)
            step = (-(weight * way).sum(dim=2, keepdim=True) / length).clamp(0, 1)
            weight = weight + step * way
        with torch.no_grad():
            self.weight.copy_(weight.squeeze(1))

    def settle(self, outputs: Tensor, nu: float) -> None:
        """Let a share ``nu`` of what ``w . h [N, M]`` was of all windows lie outside."""
        at = min(len(outputs) - 1, int(nu * len(outputs)))
        with torch.no_grad():
            self.rho.copy_(outputs.sort(dim=0).values[at])
            self.spread.copy_(outputs.std(dim=0, correction=0).clamp(min=LEAST_SPREAD))
            self.count.fill_(len(outputs))

    def blend(self, newer: OneClassMachines) -> None:
        """Move towards machines that were fitted to newer windows, in proportion to the counts."""
        old = torch.minimum(self.count, MAX_MEMORY * newer.count)
        share = (newer.count / (old + newer.count)).float()
        with torch.no_grad():
            for name in ("weight", "rho", "spread"):
                getattr(self, name).lerp_(getattr(newer, name), share)
            self.count.copy_(old + newer.count)
