"""Mean and covariance of the errors that a network makes on normal steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

FLOOR = 1e-4
"""Least variance of an error in scaled units: one percent of a feature's usual spread. A feature
that the network gets exactly right at fit would otherwise alarm at rounding errors."""

MAX_MEMORY = 10.0
"""Updates forget: old statistics count at most this many times as much as the new ones."""


@dataclass(frozen=True)
class Moments:
    """Normal errors of ``F`` numbers.

    Attributes
    ----------
    mean, covariance
        ``[F]`` and ``[F, F]`` float64, shrunk towards the diagonal.
    count
        ``[]`` float64, steps that they were learned from.
    whitener
        ``[F, F]`` float32, ``W`` with ``W' W`` the inverse of the covariance.
    """

    mean: Tensor
    covariance: Tensor
    count: Tensor
    whitener: Tensor

    @classmethod
    def make(cls, mean: Tensor, covariance: Tensor, count: Tensor) -> Self:
        """Derive the whitener."""
        # on the CPU, because the decomposition of a small matrix is slower elsewhere
        lower = torch.linalg.cholesky(covariance.cpu())
        identity = torch.eye(len(mean), dtype=torch.float64)
        whitener = torch.linalg.solve_triangular(lower, identity, upper=False)
        return cls(mean, covariance, count, whitener.float().to(mean.device))

    @classmethod
    def fit(cls, errors: Tensor, trim: float = 0.0, floor: float = 0.0) -> Self:
        """Learn from ``[n, F]`` errors of real steps.

        Parameters
        ----------
        trim
            Share of the steps, those with the largest errors, to leave out.
        floor
            Added to all variances as a share of their mean, for errors without a unit.

        Without any step the errors are taken as uncorrelated with variance 1.

        Notes
        -----
        The share of the diagonal is ``F / (F + n)``: the fewer steps per feature, the less the
        correlations are believed.
        """
        values = errors.double()
        n, features = values.shape
        if n == 0:
            one = torch.eye(features, dtype=torch.float64, device=values.device)
            return cls.make(values.sum(dim=0), one, values.new_zeros(()))
        out = int(trim * n)
        if out:
            size = (values.square() / values.square().mean(dim=0).clamp(min=FLOOR)).sum(dim=1)
            values = values[size.topk(n - out, largest=False).indices]
        mean = values.mean(dim=0)
        centred = values - mean
        raw = centred.T @ centred / len(values)
        diagonal = torch.diag(raw.diagonal())
        share = features / (features + n)
        covariance = (1 - share) * raw + share * diagonal
        least = FLOOR + floor * raw.diagonal().mean()
        covariance = covariance + least * torch.eye(features, device=values.device)
        count = torch.tensor(float(len(values)), dtype=torch.float64, device=values.device)
        return cls.make(mean, covariance, count)

    def updated(self, newer: Moments) -> Moments:
        """Blend with newer moments in proportion to their counts."""
        old = torch.minimum(self.count, MAX_MEMORY * newer.count)
        total = old + newer.count
        if total == 0:
            return self
        weight = newer.count / total
        gap = newer.mean - self.mean
        covariance = (1 - weight) * self.covariance + weight * newer.covariance
        covariance = covariance + weight * (1 - weight) * torch.outer(gap, gap)
        return Moments.make(self.mean + weight * gap, covariance, total)

    def distance(self, errors: Tensor) -> Tensor:
        """Squared Mahalanobis distance of errors ``[..., F]``."""
        white = (errors - self.mean.float()) @ self.whitener.T
        return white.square().sum(dim=-1)

    def shares(self, errors: Tensor) -> Tensor:
        """By how much the distance of ``[..., F]`` falls if feature ``f`` is left out.

        Correlated errors make the plain terms of the quadratic form negative or blame the wrong
        feature; this drop never is negative and is largest where the rest cannot explain the error.
        """
        precision = self.whitener.T @ self.whitener
        pulled = (errors - self.mean.float()) @ precision
        return pulled.square() / precision.diagonal()

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything learned, as tensors whose names start with ``prefix``."""
        return {
            f"{prefix}mean": self.mean,
            f"{prefix}covariance": self.covariance,
            f"{prefix}count": self.count,
        }

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str) -> Self:
        """Rebuild what :meth:`state` described; ``KeyError`` if a part is missing."""
        return cls.make(
            state[f"{prefix}mean"], state[f"{prefix}covariance"], state[f"{prefix}count"]
        )
