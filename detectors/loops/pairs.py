"""Pairs: a network learns how many of two instances are anomalies, from a few labelled ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.device import beside
from detectors.loops.stage import Stage
from detectors.loops.training import train

TARGETS = (0.0, 4.0, 8.0)
"""Of pairs with no, one and two labelled anomalies."""


class Pairs(NamedTuple):
    """A mini-batch: rows ``[B, D]`` on both sides, and targets ``[B]``."""

    first: Tensor
    second: Tensor
    target: Tensor


def draw_pairs(
    unlabelled: Tensor, anomalies: Tensor, batch: int, generator: torch.Generator
) -> Pairs:
    """Draw half a batch of unlabelled pairs, and quarters with one and with two anomalies.

    Where one is an anomaly, it comes first.
    """
    quarter = max(1, batch // 4)

    def some(rows: Tensor, count: int) -> Tensor:
        chosen = torch.randint(len(rows), (count,), generator=generator)
        return rows[beside(chosen, rows)]

    first = torch.cat([some(unlabelled, 2 * quarter), some(anomalies, 2 * quarter)])
    second = torch.cat([some(unlabelled, 3 * quarter), some(anomalies, quarter)])
    counts = torch.tensor([2 * quarter, quarter, quarter])
    return Pairs(first, second, beside(torch.tensor(TARGETS).repeat_interleave(counts), first))


def relate(
    stage: Stage,
    unlabelled: Tensor,
    anomalies: Tensor,
    relation: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Minimise the absolute error of the relation of pairs.

    Parameters
    ----------
    unlabelled, anomalies
        ``[N, D]`` and ``[A, D]``.
    relation
        Two times ``[B, D]`` to ``[B]``, through ``stage.model``.
    """
    settings = stage.settings

    def draw(generator: torch.Generator) -> Iterator[Pairs]:
        for _ in range(settings.steps_per_epoch):
            yield draw_pairs(unlabelled, anomalies, settings.batch, generator)

    train(stage, draw, lambda pairs: (relation(pairs.first, pairs.second) - pairs.target).abs())
