"""Ordinal regression on pseudo-labels: what ranks highest and lowest teaches what comes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.loops.deviation import half_and_half
from detectors.loops.stage import Stage
from detectors.loops.training import train


class PseudoLabels(NamedTuple):
    """Which of ``N`` rows count as anomalous and which as normal, ``[N]`` bool; most as neither."""

    anomalous: Tensor
    normal: Tensor


def pseudo_labels(scores: Tensor, marks: Tensor, anomalous: float, normal: float) -> PseudoLabels:
    """Take the ends of a ranking; what people have said overrules it.

    Parameters
    ----------
    scores, marks
        ``[N]`` scores, and labels: 1 anomaly, 0 normal, -1 unlabelled.
    anomalous, normal
        Shares of the rows at the upper and at the lower end, at least one row each.
    """
    order = scores.argsort(stable=True)
    high, low = torch.zeros_like(marks, dtype=torch.bool), torch.zeros_like(marks, dtype=torch.bool)
    high[order[len(order) - max(1, int(anomalous * len(order))) :]] = True
    low[order[: max(1, int(normal * len(order)))]] = True
    return PseudoLabels((high & (marks != 0)) | (marks == 1), (low & (marks != 1)) | (marks == 0))


def overlap(one: Tensor, other: Tensor) -> float:
    """Jaccard index of two sets, given as ``[N]`` bool."""
    return float((one & other).sum() / (one | other).sum().clamp(min=1))


def mean_rank(scores: list[Tensor]) -> Tensor:
    """``[N]``: mean rank of each row over several scores ``[N]``; rows that tie rank alike."""
    ranks = [torch.searchsorted(score.sort().values, score) for score in scores]
    return torch.stack(ranks).double().mean(dim=0)


class Ordered(NamedTuple):
    """A mini-batch: rows ``[2n, D]`` and the ordinal value ``[2n]`` of each."""

    rows: Tensor
    value: Tensor


def ordinal_loss(scores: Tensor, value: Tensor) -> Tensor:
    """``|tau(x) - y|``, ``[B]``: pseudo-labels are partly wrong, and a square would obey those."""
    return (scores - value).abs()


def regress(
    stage: Stage, rows: Tensor, labels: PseudoLabels, scorer: Callable[[Tensor], Tensor]
) -> None:
    """Draw scores of anomalous rows to 1 and those of normal ones to 0, as many of either.

    Parameters
    ----------
    rows, labels
        Rows ``[N, D]``, of which those with a label are learned.
    scorer
        ``[B, D]`` to ``[B]`` scores, through ``stage.model``.
    """
    settings = stage.settings
    normal, anomalous = rows[labels.normal], rows[labels.anomalous]

    def draw(generator: torch.Generator) -> Iterator[Ordered]:
        for _ in range(settings.steps_per_epoch):
            chosen, marks = half_and_half(normal, anomalous, settings.batch, generator)
            yield Ordered(chosen, marks.float())

    train(stage, draw, lambda batch: ordinal_loss(scorer(batch.rows), batch.value))
