"""Triplets: an inlier is drawn towards another inlier and away from a candidate outlier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.device import beside
from detectors.loops.stage import Stage
from detectors.loops.training import train

CUT = math.sqrt(3)
"""Deviations above the mean beyond which a score makes a candidate. By Cantelli's inequality at
most a quarter of the rows lies there, however scores are distributed."""

LEAST = 10
"""Candidates where no score lies beyond: the highest ones."""

PAIRS = 1024
"""Random pairs of rows that the scale of distances is taken from."""


class Triplets(NamedTuple):
    """A mini-batch: rows ``[B, D]`` in each of the three places."""

    query: Tensor
    inlier: Tensor
    outlier: Tensor


def triplet_loss(query: Tensor, inlier: Tensor, outlier: Tensor, margin: Tensor) -> Tensor:
    """``max(0, margin - (|q - n|² - |q - p|²))`` of codes ``[B, K]``, ``[B]``."""
    near = (query - inlier).square().sum(dim=1)
    far = (query - outlier).square().sum(dim=1)
    return (margin - (far - near)).clamp(min=0)


def candidates(scores: Tensor) -> Tensor:
    """Which rows count as outliers for their scores ``[N]``, ``[N]`` bool; never all of them."""
    beyond = scores > scores.mean() + CUT * scores.std(correction=0)
    if not beyond.any():
        taken = min(LEAST, len(scores) // 2)
        beyond[scores.argsort(stable=True)[len(scores) - taken :]] = True
    return beyond


def typical_distance(codes: Tensor) -> Tensor:
    """Median ``[]`` of the squared distances of ``PAIRS`` random pairs, equal ones left out.

    Draws from torch's global generator. 1 where all are equal.
    """
    first, second = torch.randint(len(codes), (2, PAIRS)).to(codes.device)
    squares = (codes[first] - codes[second]).square().sum(dim=1)
    return squares[squares > 0].median().nan_to_num(1.0)


def in_proportion(weights: Tensor) -> Callable[[int, torch.Generator], Tensor]:
    """Return what draws ``n`` indices into ``weights [N]``, with replacement and on the CPU."""
    upto = weights.detach().double().cpu().cumsum(dim=0)

    def draw(count: int, generator: torch.Generator) -> Tensor:
        chance = torch.rand(count, generator=generator, dtype=torch.float64) * upto[-1:].sum()
        return torch.searchsorted(upto, chance, right=True).clamp(max=len(upto) - 1)

    return draw


class Sampler:
    """Draws triplets by scores that were given before training, and which it does not change.

    Queries are drawn in proportion to how little they are outlying, their partners uniformly from
    the other inliers, outliers in proportion to their scores. Where there are known anomalies,
    every second outlier is one of them.

    Parameters
    ----------
    rows, scores
        ``[N, D]`` rows that may hold anomalies, and ``[N]`` how outlying they are.
    known
        ``[A, D]`` labelled anomalies; may be empty.
    """

    def __init__(self, rows: Tensor, scores: Tensor, known: Tensor) -> None:
        outlying = candidates(scores)
        self.inliers, self.outliers, self.known = rows[~outlying], rows[outlying], known
        ordinary = scores[~outlying].double()
        self._query = in_proportion(ordinary.sum() - ordinary)
        self._outlier = in_proportion(scores[outlying])
        self._known = in_proportion(torch.ones(len(known)))

    def __len__(self) -> int:
        """Rows that can stand in the place of the outlier."""
        return len(self.outliers) + len(self.known)

    def draw(self, batch: int, generator: torch.Generator) -> Triplets:
        """Draw a mini-batch; there is something to stand in each place."""
        count = len(self.inliers)
        query = self._query(batch, generator)
        step = 1 + torch.randint(max(1, count - 1), (batch,), generator=generator)
        taught = batch // 2 if len(self.outliers) else batch
        taught = taught if len(self.known) else 0
        outlier = [
            self.known[beside(self._known(taught, generator), self.known)],
            self.outliers[beside(self._outlier(batch - taught, generator), self.outliers)],
        ]
        pair = beside(torch.stack([query, (query + step) % count]), self.inliers)
        first, second = self.inliers[pair]
        return Triplets(first, second, torch.cat(outlier))


def separate(
    stage: Stage, sampler: Sampler, margin: Tensor, encoder: Callable[[Tensor], Tensor]
) -> None:
    """Minimise the triplet loss of codes.

    Parameters
    ----------
    sampler
        Draws the mini-batches.
    margin
        ``[]``: by how much squared distances to outliers are to exceed those to inliers.
    encoder
        ``[B, D]`` to codes ``[B, K]``, through ``stage.model``.
    """
    settings = stage.settings

    def draw(generator: torch.Generator) -> Iterator[Triplets]:
        for _ in range(settings.steps_per_epoch):
            yield sampler.draw(settings.batch, generator)

    def loss(rows: Triplets) -> Tensor:
        query, inlier, outlier = encoder(torch.cat(rows)).chunk(3)
        return triplet_loss(query, inlier, outlier, margin)

    train(stage, draw, loss)
