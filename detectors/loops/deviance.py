"""How unlikely a step is under what a network expects there: numbers and categories in one unit.

The deviance is twice the negative log-likelihood up to a constant. Numbers count with the squared
Mahalanobis distance of their errors, which takes them as jointly normal; a category counts with
twice its surprisal. One unusual category thus weighs as much as an equally improbable number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.loops.moments import Moments
from detectors.loops.training import evaluate
from detectors.nets.heads import Guess, new_surcharge, surprisal


def step_deviance(guess: Guess, data: WindowBatch, moments: Moments) -> Tensor:
    """``[B, T]``, 0 under the mask."""
    steps = 2 * (surprisal(guess, data) + new_surcharge(data)).sum(dim=-1)
    if data.features:
        steps = steps + moments.distance(data.num - guess.num)
    return steps * data.mask


def field_deviance(guess: Guess, data: WindowBatch, moments: Moments) -> Tensor:
    """``[B, T, F + C]``: what each number and each category adds, 0 under the mask."""
    numbers = moments.shares(data.num - guess.num)
    categories = 2 * (surprisal(guess, data) + new_surcharge(data))
    return torch.cat([numbers, categories], dim=-1) * data.mask.unsqueeze(-1)


def error_moments(
    expect: Callable[[WindowBatch], Guess], data: WindowBatch, batch: int, trim: float
) -> Moments:
    """Moments of the errors of ``expect`` over the real steps of ``data``."""

    def errors(part: WindowBatch) -> Tensor:
        return (part.num - expect(part).num)[part.mask]

    return Moments.fit(evaluate(errors, data, batch), trim)
