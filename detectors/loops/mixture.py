"""Gaussian mixtures whose components are given by soft memberships, in float64.

A covariance that loses rank is how such models fail: everything about it is therefore done in
double precision, through Cholesky factors and logarithms of sums, with a ridge on the diagonal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

TINY = 1e-12
"""Least weight of a component that nothing belongs to; its energy is then high, not infinite."""


@dataclass(frozen=True)
class Mixture:
    """``K`` components over codes of ``Z`` numbers; all float64.

    Attributes
    ----------
    weight
        ``[K]`` sums of the memberships.
    mean, covariance
        ``[K, Z]`` and ``[K, Z, Z]``, the latter without the ridge.
    ridge
        Added to the variances wherever a density is computed.
    """

    weight: Tensor
    mean: Tensor
    covariance: Tensor
    ridge: float

    @classmethod
    def fit(cls, codes: Tensor, memberships: Tensor, ridge: float) -> Self:
        """Compute the moments of codes ``[N, Z]`` under memberships ``[N, K]``; differentiable."""
        z, share = codes.double(), memberships.double()
        weight = share.sum(dim=0)
        least = weight.clamp(min=TINY)
        mean = share.T @ z / least.unsqueeze(1)
        gap = z.unsqueeze(1) - mean
        covariance = torch.einsum("nk,nki,nkj->kij", share, gap, gap) / least[:, None, None]
        return cls(weight, mean, covariance, ridge)

    def updated(self, newer: Mixture, horizon: float) -> Mixture:
        """Blend with newer moments in proportion to the weights.

        Parameters
        ----------
        horizon
            Sum of weights that the older moments count for at most.
        """
        fade = (horizon / self.weight.sum().clamp(min=TINY)).clamp(max=1.0)
        total = fade * self.weight + newer.weight
        share = newer.weight / total.clamp(min=TINY)
        gap = newer.mean - self.mean
        outer = gap.unsqueeze(2) * gap.unsqueeze(1)
        w = share[:, None, None]
        covariance = (1 - w) * self.covariance + w * newer.covariance + w * (1 - w) * outer
        return Mixture(total, self.mean + share.unsqueeze(1) * gap, covariance, self.ridge)

    def energy(self, codes: Tensor) -> Tensor:
        """Negative log-density ``[N]`` of codes ``[N, Z]``; ``NaN`` if there is no density."""
        return -torch.logsumexp(self._terms(codes), dim=0)

    def responsibilities(self, codes: Tensor) -> Tensor:
        """Shares ``[N, K]`` of the components in the density at each code."""
        return torch.softmax(self._terms(codes), dim=0).T

    def _terms(self, codes: Tensor) -> Tensor:
        """Logarithm ``[K, N]`` of what each component adds to the density at each code."""
        factor, heights = self._parts()
        gap = codes.double().unsqueeze(1) - self.mean
        white = torch.linalg.solve_triangular(factor, gap.permute(1, 2, 0), upper=False)
        terms: Tensor = heights.unsqueeze(1) - 0.5 * white.square().sum(dim=1)
        return terms

    def floor(self) -> Tensor:
        """``[]``: an energy that no code can go below, that of all means falling on one point."""
        return -torch.logsumexp(self._parts()[1], dim=0)

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Cholesky factors ``[K, Z, Z]`` and logarithms ``[K]`` of the weighted peak densities."""
        size = self.mean.shape[1]
        identity = torch.eye(size, dtype=torch.float64, device=self.mean.device)
        factor, failed = torch.linalg.cholesky_ex(self.covariance + self.ridge * identity)
        factor = torch.where((failed > 0)[:, None, None], torch.nan, factor)
        log_weight = torch.log(self.weight.clamp(min=TINY) / self.weight.sum().clamp(min=TINY))
        log_root = factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        return factor, log_weight - log_root - 0.5 * size * math.log(2 * math.pi)

    # -- as clusters ------------------------------------------------------------------------

    @property
    def centres(self) -> Tensor:
        """``[K, Z]`` float32."""
        return self.mean.float()

    def judge(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Energies ``[B]`` of codes, and the component that each most likely belongs to."""
        terms = self._terms(codes)
        return -torch.logsumexp(terms, dim=0), terms.argmax(dim=0)

    def absorb(self, codes: Tensor, horizon: float) -> Mixture:
        """Move on with codes ``[N, Z]`` by one step of expectation and maximisation.

        Parameters
        ----------
        horizon
            Sum of weights that the past counts for at most; nothing with 0.
        """
        newer = Mixture.fit(codes, self.responsibilities(codes), self.ridge)
        return self.updated(newer, horizon)

    # -- shape and files --------------------------------------------------------------------

    def precisions(self) -> Tensor:
        """``[]`` sum of one over each variance: large where a component is about to collapse."""
        return (1 / (self.covariance.diagonal(dim1=1, dim2=2) + self.ridge)).sum()

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything learned, as tensors whose names start with ``prefix``."""
        return {
            f"{prefix}weight": self.weight,
            f"{prefix}mean": self.mean,
            f"{prefix}covariance": self.covariance,
        }

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str, ridge: float) -> Self:
        """Rebuild what :meth:`state` described; ``KeyError`` if a part is missing."""
        weight, mean = state[f"{prefix}weight"], state[f"{prefix}mean"]
        return cls(weight, mean, state[f"{prefix}covariance"], ridge)
