"""From scores of steps to the score of their window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from detectors.nets.heads import per_step_mean

Pool = Literal["mean", "max", "both"]

USUAL = 0.95
"""Quantile of held-out windows that makes mean and maximum comparable."""


@dataclass(frozen=True)
class Pooling:
    """Mean over the real steps, their maximum, or whichever of the two is the more unusual.

    A mean hides one bad step among many good ones and a maximum hides many slightly bad ones.
    ``both`` divides each by what 95 % of held-out windows stay below and takes the larger ratio.

    Attributes
    ----------
    how
        Which of them.
    usual
        ``[2]``: mean and maximum that most held-out windows stay below.
    """

    how: Pool
    usual: Tensor

    @classmethod
    def fit(cls, how: Pool, steps: Tensor, mask: Tensor) -> Self:
        """Learn from step scores ``[N, T]`` of held-out windows."""
        both = torch.stack([per_step_mean(steps, mask), steps.amax(dim=1)], dim=1)
        at = min(len(both) - 1, int(USUAL * len(both)))
        return cls(how, both.sort(dim=0).values[at].clamp(min=1e-6))

    def __call__(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, T]`` step scores, 0 under the mask, to ``[B]``."""
        if self.how == "mean":
            return per_step_mean(steps, mask)
        highest = steps.amax(dim=1)
        if self.how == "max":
            return highest
        return torch.maximum(per_step_mean(steps, mask) / self.usual[0], highest / self.usual[1])
