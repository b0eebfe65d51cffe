"""Networks that learn what a random network makes of a window."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detectors.nets.stacked import StackedLinear

LEARNER_SLOPE = 0.2
TARGET_SLOPE = 0.25
"""Slopes of the leaky ReLU below 0. They differ, so that a learner cannot take over the target."""


class RandomDistances(nn.Module):
    """``M`` learners of one layer, each with a random layer as its target that never changes.

    Parameters
    ----------
    trees, columns, units
        ``M``, and the widths ``D`` and ``K`` of the layers.
    """

    target: Tensor

    def __init__(self, trees: int, columns: int, units: int) -> None:
        super().__init__()
        self.learner = StackedLinear(trees, columns, units)
        # outputs about as large as the inputs (He et al. 2015)
        spread = math.sqrt(2 / ((1 + TARGET_SLOPE**2) * columns))
        self.register_buffer("target", spread * torch.randn(trees, columns, units))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Map rows ``[B, D]`` by all, or ``[M, B, D]`` by one each: learned and random vectors.

        Both are ``[M, B, K]``.
        """
        rows = rows.expand(len(self.target), -1, -1)
        learned = nn.functional.leaky_relu(self.learner(rows), LEARNER_SLOPE)
        return learned, nn.functional.leaky_relu(torch.bmm(rows, self.target), TARGET_SLOPE)


def similarity(vectors: Tensor) -> Tensor:
    """Products ``[M, B]`` of vectors ``[M, B, K]`` of absolute sum 1, each with the one before."""
    unit = nn.functional.normalize(vectors, p=1.0, dim=-1)
    return (unit * unit.roll(1, dims=-2)).sum(dim=-1)
