"""How unlikely a window is under what a network expects of it: numbers and categories in one unit.

The deviance is twice the negative log-likelihood up to a constant. Numbers count with the squared
Mahalanobis distance of their errors, which takes them as jointly normal; a category counts with
twice its surprisal. One unusual category thus weighs as much as an equally improbable number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.loops.batches import evaluate
from detectors.loops.moments import Moments
from detectors.loops.pooling import Pool, Pooling
from detectors.nets.heads import Guess, novelty, surprisal

PSEUDO_WINDOWS = 10.0
"""Held-out windows that a position needs before its own error scale counts as much as the common
one; a handful of windows would otherwise set scales at random."""


@dataclass(frozen=True)
class Deviance:
    """What turns the guesses of a network into scores, learned from windows it was not trained on.

    Attributes
    ----------
    moments
        Normal errors of the numbers.
    ease
        ``[P]``: squared errors at step ``p`` relative to all; the last one serves later steps.
    pooling
        From steps to windows.
    """

    moments: Moments
    ease: Tensor
    pooling: Pooling

    @classmethod
    def fit(
        cls,
        expect: Callable[[WindowBatch], Guess],
        data: WindowBatch,
        how: Pool,
        *,
        batch: int,
        trim: float,
        by_position: bool,
    ) -> Self:
        """Learn from held-out windows.

        Parameters
        ----------
        expect
            The trained network.
        batch, trim
            Windows at a time is a few times ``batch``; ``trim`` is the share of the steps, those
            with the largest errors, that do not count.
        by_position
            Whether early steps are harder to say than later ones. Each then has its own scale, and
            the first, for which there is nothing to go by, stays out of the moments.
        """
        late = data.mask.clone()
        if by_position and data.steps > 1:
            late[:, 0] = False

        def errors(part: WindowBatch) -> Tensor:
            return part.num - expect(part).num

        found = evaluate(errors, data, batch)
        moments = Moments.fit(found[late], trim)
        ease = torch.ones(1, device=found.device)
        if by_position and data.features:
            ease = ease_by_position(moments.distance(found), data.mask)
        untuned = cls(moments, ease, Pooling(how, torch.ones(2, device=found.device)))
        steps = evaluate(lambda part: untuned.steps(expect(part), part), data, batch)
        return replace(untuned, pooling=Pooling.fit(how, steps, data.mask))

    def updated(self, newer: Deviance) -> Deviance:
        """Blend the moments with newer ones and keep the rest."""
        return replace(self, moments=self.moments.updated(newer.moments))

    def steps(self, guess: Guess, data: WindowBatch) -> Tensor:
        """``[B, T]``, 0 under the mask."""
        steps = 2 * (surprisal(guess, data) + novelty(guess, data)).sum(dim=-1)
        if data.features:
            steps = steps + self.moments.distance(data.num - guess.num) / self._ease_of(data)
        return steps * data.mask

    def fields(self, guess: Guess, data: WindowBatch) -> Tensor:
        """``[B, T, F + C]``: what each number and each category adds, 0 under the mask."""
        shares = self.moments.shares(data.num - guess.num)
        numbers = shares / self._ease_of(data).unsqueeze(-1)
        categories = 2 * (surprisal(guess, data) + novelty(guess, data))
        return torch.cat([numbers, categories], dim=-1) * data.mask.unsqueeze(-1)

    def _ease_of(self, data: WindowBatch) -> Tensor:
        """``[T]`` for the steps of ``data``."""
        at = torch.arange(data.steps, device=self.ease.device).clamp(max=len(self.ease) - 1)
        return self.ease[at]

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything learned, as tensors whose names start with ``prefix``."""
        own = {f"{prefix}ease": self.ease, f"{prefix}usual": self.pooling.usual}
        return {**own, **self.moments.state(f"{prefix}moments.")}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str, how: Pool) -> Self:
        """Rebuild what :meth:`state` described; ``KeyError`` if a part is missing."""
        pooling = Pooling(how, state[f"{prefix}usual"])
        moments = Moments.from_state(state, f"{prefix}moments.")
        return cls(moments, state[f"{prefix}ease"], pooling)


def ease_by_position(distances: Tensor, mask: Tensor) -> Tensor:
    """Median of the distances ``[N, T]`` at each step relative to that of all, shrunk to 1."""
    whole = distances[mask].median().clamp(min=1e-6)
    factors = []
    for step in range(mask.shape[1]):
        here = distances[mask[:, step], step]
        own = float(here.median() / whole) * len(here) if len(here) else 0.0
        factors.append((own + PSEUDO_WINDOWS) / (len(here) + PSEUDO_WINDOWS))
    return torch.tensor(factors, device=distances.device)
