"""Clustering: k-means over real entries, and codes that are drawn to where they mostly belong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from detectors.device import beside
from detectors.loops.batches import in_random_order
from detectors.loops.stage import Stage
from detectors.loops.training import train

FLOOR = 1e-2
"""Least spread of a cluster as a share of the mean spread, lest a cluster of equal windows call all
others anomalous."""

LEAST_SPREAD = 1e-6
"""Least spread of all: that of rounding errors."""

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
    chosen = [beside(torch.randint(len(x), ()), x)]
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


@dataclass(frozen=True)
class Clusters:
    """``K`` round clusters among codes of ``Z`` numbers.

    Attributes
    ----------
    centres
        ``[K, Z]``.
    spread
        ``[K]`` mean squared distance of the members to their centre.
    weight
        ``[K]`` windows behind them; a cluster without members is out of the game.
    """

    centres: Tensor
    spread: Tensor
    weight: Tensor

    @classmethod
    def around(cls, centres: Tensor, codes: Tensor) -> Self:
        """Keep the centres; take spreads and weights from codes ``[N, Z]``."""
        weight, _, squares = members(centres, codes)
        return cls(centres, squares / weight.clamp(min=1), weight)

    def absorb(self, codes: Tensor, horizon: float) -> Clusters:
        """Move on with codes ``[N, Z]``, like running means; each belongs to the nearest centre.

        Parameters
        ----------
        horizon
            Windows of a cluster that the past counts for at most; with 0 a centre becomes the mean
            of its new members, the step of Lloyd's algorithm.
        """
        count, gaps, squares = members(self.centres, codes)
        past = self.weight.clamp(max=horizon)
        total = (past + count).clamp(min=1)
        move = gaps / total.unsqueeze(1)
        # around the new centre, which is the mean where the old one was
        spread = (past * self.spread + squares) / total - move.square().sum(dim=1)
        return Clusters(self.centres + move, spread.clamp(min=0), past + count)

    def judge(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Least squared distance ``[B]`` in units of a cluster's spread, and to which it is."""
        occupied = self.weight > 0
        mean = (self.spread * occupied).sum() / occupied.sum().clamp(min=1)
        least = (FLOOR * mean).clamp(min=LEAST_SPREAD)
        distances = squared_gaps(codes, self.centres) / torch.maximum(self.spread, least)
        found = distances.masked_fill(~occupied, torch.inf).min(dim=1)
        return found.values, found.indices

    def floor(self) -> Tensor:
        """``[]``: what :meth:`judge` cannot go below."""
        return self.spread.new_zeros(())

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything learned, as tensors whose names start with ``prefix``."""
        return {
            f"{prefix}centres": self.centres,
            f"{prefix}spread": self.spread,
            f"{prefix}weight": self.weight,
        }

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str) -> Self:
        """Rebuild what :meth:`state` described; ``KeyError`` if a part is missing."""
        return cls(state[f"{prefix}centres"], state[f"{prefix}spread"], state[f"{prefix}weight"])


def squared_gaps(codes: Tensor, centres: Tensor) -> Tensor:
    """Squared distances ``[B, K]`` of codes ``[B, Z]`` to centres ``[K, Z]``."""
    return (codes.unsqueeze(1) - centres).square().sum(dim=2)


def members(centres: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count the codes ``[K]`` nearest to each centre; sum their gaps ``[K, Z]`` and squares."""
    squares = squared_gaps(codes, centres)
    index = squares.argmin(dim=1)
    belongs = torch.nn.functional.one_hot(index, len(centres)).to(codes.dtype)
    gaps = belongs.T @ (codes - centres[index])
    return belongs.sum(dim=0), gaps, (belongs * squares).sum(dim=0)


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
        for chosen in in_random_order(len(rows), settings, generator, rows.device):
            yield Assigned(rows[chosen], real[chosen], target[chosen])

    def validate() -> float:
        target = sharpened(assign(held_out[0]), sizes)
        with torch.no_grad():
            return float(loss(Assigned(*held_out, target)).mean())

    train(stage, draw, loss, validate=validate)
