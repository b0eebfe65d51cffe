"""Logistic regressions for many windows at once: what tells one half of their steps from the other.

Everything is in float64: accuracies are counts, and a step on the wrong side of a boundary by a
rounding error would change one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 30
"""Steps of each fit; all use one bound of the curvature, so that none can overshoot."""

TIE = 1e-9
"""Sizes of the linear function up to which a step counts as on neither side, as half an error."""


class Halves(NamedTuple):
    """``B`` windows, each in two parts.

    Attributes
    ----------
    x
        ``[B, T, E]`` float64.
    sign
        ``[B, T]``: -1 for steps of the first part, 1 for those of the second, 0 for others.
    """

    x: Tensor
    sign: Tensor

    def only(self, chosen: Tensor) -> Halves:
        """Keep the steps where ``chosen [B, T]`` is true."""
        return Halves(self.x, self.sign * chosen)

    def weights(self) -> Tensor:
        """``[B, T]``: weights of the steps, one half in total for either part."""
        weights = torch.zeros_like(self.sign)
        for side in (-1.0, 1.0):
            own = self.sign == side
            weights = weights + 0.5 * own / own.sum(dim=1, keepdim=True).clamp(min=1)
        return weights


def separate(halves: Halves, strength: float) -> tuple[Tensor, Tensor]:
    """Fit a logistic regression to each window; return weights ``[B, E]`` and constants ``[B]``.

    Minimises the loss ``strength`` times summed over the steps, of which either part counts alike,
    plus half the squared weights. The curvature is bounded by that of even odds (Böhning and
    Lindsay 1988), so that one factorisation serves all rounds.
    """
    x, sign = halves
    count = (sign != 0).sum(dim=1, keepdim=True)
    share = strength * count * halves.weights()
    extended = torch.cat([x, torch.ones_like(x[:, :, :1])], dim=2)
    ridge = torch.ones(extended.shape[2], dtype=x.dtype, device=x.device)
    ridge[-1] = TIE  # constants are free
    curvature = torch.einsum("bte,bt,btf->bef", extended, share / 4, extended) + torch.diag(ridge)
    # never fails with a ridge, and to look whether it did would make the host wait
    factor = torch.linalg.cholesky_ex(curvature).L
    solution = torch.zeros_like(extended[:, 0])
    for _ in range(ROUNDS):
        margin = sign * torch.einsum("bte,be->bt", extended, solution)
        pull = share * sign * torch.sigmoid(-margin)
        gradient = torch.einsum("bt,bte->be", pull, extended) - ridge * solution
        solution = solution + torch.cholesky_solve(gradient.unsqueeze(2), factor).squeeze(2)
    return solution[:, :-1], solution[:, -1]


def accuracy(halves: Halves, weights: Tensor, constant: Tensor) -> Tensor:
    """Share ``[B]`` of the steps that lie on their own side, the mean of both parts.

    One half where a part is empty.
    """
    margin = halves.sign * (torch.einsum("bte,be->bt", halves.x, weights) + constant.unsqueeze(1))
    right = (margin > TIE).double() + 0.5 * (margin.abs() <= TIE)
    both = (halves.sign < 0).any(dim=1) & (halves.sign > 0).any(dim=1)
    return torch.where(both, (halves.weights() * right).sum(dim=1), 0.5)
