"""What a detector says about a batch of windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Explain = Literal["none", "full"]


@dataclass(frozen=True)
class Scores:
    """Scores of ``B`` windows; larger is always more anomalous.

    Attributes
    ----------
    score
        ``[B]`` float32.
    step
        ``[B, T]`` share of each step in the score, 0 under the mask; if asked for and available.
    feature
        ``[B, T, F + C]`` share of each number, then of each category field, never negative.
    expected
        ``[B, T, F]`` reconstruction or prediction in the units of the input, where there is one.
    uncertainty
        ``[B]`` spread over members or heads, where there are several.
    """

    score: Tensor
    step: Tensor | None = None
    feature: Tensor | None = None
    expected: Tensor | None = None
    uncertainty: Tensor | None = None

    @staticmethod
    def concatenate(parts: list[Scores]) -> Scores:
        """Join the scores of consecutive chunks."""
        if len(parts) == 1:
            return parts[0]

        def join(name: str) -> Tensor | None:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors)

        score = join("score")
        if score is None:
            score = torch.zeros(0)
        return Scores(score, join("step"), join("feature"), join("expected"), join("uncertainty"))
