"""Deviation: scores of labelled anomalies are pushed away from those of all other instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.device import beside
from detectors.loops.stage import Stage
from detectors.loops.training import train


@dataclass(frozen=True)
class Prior:
    """What scores of normal instances should look like, and how far anomalies should be.

    Attributes
    ----------
    mean, spread
        Of the normal distribution that reference scores are drawn from.
    draws
        Reference scores per mini-batch.
    margin
        Deviation, in reference spreads, beyond which an anomaly costs nothing more.
    """

    mean: float = 0.0
    spread: float = 1.0
    draws: int = 5000
    margin: float = 5.0

    def reference(self, generator: torch.Generator) -> tuple[float, float]:
        """Mean and standard deviation of fresh draws; they carry no gradient."""
        sample = self.mean + self.spread * torch.randn(self.draws, generator=generator)
        return sample.mean().item(), sample.std().item()


def deviation_loss(
    scores: Tensor, anomalous: Tensor, reference: tuple[float, float], margin: float
) -> Tensor:
    """``|dev|`` of normals and ``max(0, margin - dev)`` of anomalies, ``[B]``.

    ``dev = (score - mean) / spread`` of the reference scores.
    """
    mean, spread = reference
    deviation = (scores - mean) / spread
    return torch.where(anomalous, (margin - deviation).clamp(min=0), deviation.abs())


@dataclass(frozen=True)
class HalfAndHalf:
    """A mini-batch: first as many unlabelled instances, then as many labelled anomalies.

    Attributes
    ----------
    inputs
        ``[2n, D]``.
    anomalous
        ``[2n]`` bool.
    reference
        Mean and standard deviation of this batch's reference scores.
    """

    inputs: Tensor
    anomalous: Tensor
    reference: tuple[float, float]


def half_and_half(
    unlabelled: Tensor, anomalies: Tensor, batch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw inputs ``[2n, D]`` and their marks ``[2n]``, ``n = batch // 2``, with replacement.

    A few anomalies among many normals would otherwise hardly ever meet the loss.
    """
    half = max(1, batch // 2)
    rows = beside(torch.randint(len(unlabelled), (half,), generator=generator), unlabelled)
    labelled = beside(torch.randint(len(anomalies), (half,), generator=generator), anomalies)
    inputs = torch.cat([unlabelled[rows], anomalies[labelled]])
    return inputs, torch.arange(2 * half, device=inputs.device) >= half


def deviate(
    stage: Stage,
    unlabelled: Tensor,
    anomalies: Tensor,
    prior: Prior,
    scorer: Callable[[Tensor], Tensor],
) -> None:
    """Minimise the deviation loss over half-and-half mini-batches.

    Parameters
    ----------
    unlabelled, anomalies
        ``[N, D]`` and ``[A, D]``.
    scorer
        ``[B, D]`` to ``[B]`` scores, through ``stage.model``.
    """
    settings = stage.settings

    def draw(generator: torch.Generator) -> Iterator[HalfAndHalf]:
        for _ in range(settings.steps_per_epoch):
            inputs, marks = half_and_half(unlabelled, anomalies, settings.batch, generator)
            yield HalfAndHalf(inputs, marks, prior.reference(generator))

    def loss(batch: HalfAndHalf) -> Tensor:
        return deviation_loss(scorer(batch.inputs), batch.anomalous, batch.reference, prior.margin)

    train(stage, draw, loss)
