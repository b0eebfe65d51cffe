"""Clustering: k-means over real entries, and codes that are drawn to where they mostly belong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.loops.training import Stage, train

ROUNDS = 50
"""Most rounds of Lloyd's algorithm; it nearly always comes to rest before."""


class Means(NamedTuple):
    """Result of k-means.

    Attributes
    ----------
    centres
        ``[K, D]``.
    weight
        ``[K, D]``: real entries behind each entry of a centre.
    left_out
        Rows that the means were computed without.
    """

    centres: Tensor
    weight: Tensor
    left_out: int


def kmeans(x: Tensor, real: Tensor, clusters: int, trim: float = 0.0) -> Means:
    """Lloyd's algorithm from a k-means++ start; draws from torch's global generator.

    Parameters
    ----------
    x, real
        Rows ``[N, D]``, and 1 where an entry is real.
    clusters
        Number of means; no more than rows are found.
    trim
        Share of the rows, the farthest ones, that the means are computed without.
    """
    centres = spread_start(x, real, clusters)
    weight = torch.zeros_like(centres)
    kept = torch.arange(len(x), device=x.device)
    last = torch.full_like(kept, -1)
    for _ in range(ROUNDS):
        distance, index = nearest_mean(x, real, centres)
        if torch.equal(index, last):
            break
        last = index
        kept = distance.argsort(stable=True)[: len(x) - int(trim * len(x))]
        sums, weight = cluster_sums(x[kept], real[kept], index[kept], len(centres))
        centres = torch.where(weight > 0, sums / weight.clamp(min=1), centres)
    return Means(centres, weight, len(x) - len(kept))


def spread_start(x: Tensor, real: Tensor, clusters: int) -> Tensor:
    """Draw ``[K, D]`` rows far from each other (k-means++)."""
    chosen = [torch.randint(len(x), ()).to(x.device)]
    closest = x.new_full((len(x),), torch.inf)
    for _ in range(min(clusters, len(x)) - 1):
        gap = (x - x[chosen[-1]]).square().mul_(real).sum(dim=1)
        closest = torch.minimum(closest, gap / real.sum(dim=1).clamp(min=1))
        chance = closest.double().cumsum(dim=0)
        draw = (torch.rand((), dtype=torch.float64).to(x.device) * chance[-1]).unsqueeze(0)
        chosen.append(torch.searchsorted(chance, draw)[0].clamp(max=len(x) - 1))
    return x[torch.stack(chosen)]


def nearest_mean(x: Tensor, real: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Distance ``[B]`` to the nearest mean, root mean square over real entries, and which it is.

    The products only find it; its distance is then taken directly, because ``|x|^2 - 2 x c
    + |c|^2`` cancels.
    """
    squares = real @ centres.square().T - 2 * x @ centres.T
    index = squares.argmin(dim=1)
    gap = (x - centres[index]).square().mul_(real).sum(dim=1)
    return (gap / real.sum(dim=1).clamp(min=1)).sqrt(), index


def cluster_sums(x: Tensor, real: Tensor, index: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Return sums and counts ``[K, D]`` of the real entries of each cluster."""
    zeros = x.new_zeros((clusters, x.shape[1]))
    return zeros.index_add(0, index, x), zeros.index_add(0, index, real)


def soft_assignment(squares: Tensor) -> Tensor:
    """Shares ``[B, K]`` in the clusters by squared distances, with the weight of Student's t."""
    weight = 1 / (1 + squares)
    return weight / weight.sum(dim=1, keepdim=True)


def sharpened(shares: Tensor, sizes: Tensor) -> Tensor:
    """Target ``[B, K]`` for shares: surer than they are, and without a bonus for large clusters.

    Parameters
    ----------
    sizes
        ``[K]`` sums of the shares of all windows.
    """
    target = shares.square() / sizes.clamp(min=torch.finfo(shares.dtype).tiny)
    return target / target.sum(dim=1, keepdim=True)


def divergence(target: Tensor, shares: Tensor) -> Tensor:
    """Kullback-Leibler divergence ``[B]`` of shares from their target; never negative."""
    return (torch.xlogy(target, target) - target * shares.log()).sum(dim=1)


class Assigned(NamedTuple):
    """A mini-batch: rows ``[B, D]``, which entries are real, and the target shares ``[B, K]``."""

    rows: Tensor
    real: Tensor
    target: Tensor


def sharpen_clusters(
    stage: Stage,
    data: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    shares: Callable[[Tensor], Tensor],
    loss: Callable[[Assigned], Tensor],
) -> None:
    """Draw soft assignments to their own sharpened form, which every epoch computes anew.

    Parameters
    ----------
    data, held_out
        Rows ``[N, D]`` and their real entries, to learn from and to stop by.
    shares
        Rows to their shares in the clusters.
    loss
        ``[B]``: divergence of the shares from their target, and whatever else is to be kept.
    """
    settings = stage.settings
    rows, real = data
    sizes = rows.new_zeros(0)

    def assign(part: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([shares(few) for few in torch.split(part, 4 * settings.batch)])

    def draw(generator: torch.Generator) -> Iterator[Assigned]:
        nonlocal sizes
        found = assign(rows)
        sizes = found.sum(dim=0)
        target = sharpened(found, sizes)
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        order = order[: settings.batch * settings.steps_per_epoch]
        for first in range(0, len(order), settings.batch):
            chosen = order[first : first + settings.batch]
            yield Assigned(rows[chosen], real[chosen], target[chosen])

    def validate() -> float:
        target = sharpened(assign(held_out[0]), sizes)
        with torch.no_grad():
            return float(loss(Assigned(*held_out, target)).mean())

    train(stage, draw, loss, validate=validate)
