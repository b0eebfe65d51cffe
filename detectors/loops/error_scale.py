"""How large the errors of each field usually are, so that a noisy field does not drown the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from detectors.loops.moments import FLOOR, MAX_MEMORY


@dataclass(frozen=True)
class ErrorScale:
    """Mean error of each field over windows that the network was not trained on.

    Attributes
    ----------
    usual
        ``[F + C]`` float32, never below ``FLOOR``.
    count
        ``[]`` float64, steps that it was learned from.
    """

    usual: Tensor
    count: Tensor

    @classmethod
    def fit(cls, errors: Tensor, trim: float = 0.0) -> Self:
        """Learn from the errors ``[n, F + C]`` of real steps, all at least 0.

        Parameters
        ----------
        trim
            Share of the steps, those with the largest errors, to leave out.

        Without any step the usual error is taken as 1.
        """
        n = len(errors)
        if n == 0:
            return cls(errors.new_ones(errors.shape[1]), errors.new_zeros((), dtype=torch.float64))
        values = errors.double()
        out = int(trim * n)
        if out:
            size = (values / values.mean(dim=0).clamp(min=FLOOR)).sum(dim=1)
            values = values[size.topk(n - out, largest=False).indices]
        usual = values.mean(dim=0).clamp(min=FLOOR).float()
        return cls(usual, values.new_tensor(float(len(values))))

    def updated(self, newer: ErrorScale) -> ErrorScale:
        """Blend with newer errors in proportion to their counts."""
        old = torch.minimum(self.count, MAX_MEMORY * newer.count)
        total = old + newer.count
        if total == 0:
            return self
        weight = newer.count / total
        usual = (1 - weight) * self.usual.double() + weight * newer.usual.double()
        return ErrorScale(usual.float(), total)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything learned, as tensors whose names start with ``prefix``."""
        return {f"{prefix}usual": self.usual, f"{prefix}count": self.count}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str) -> Self:
        """Rebuild what :meth:`state` described; ``KeyError`` if a part is missing."""
        return cls(state[f"{prefix}usual"], state[f"{prefix}count"])
