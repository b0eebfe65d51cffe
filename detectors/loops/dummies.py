"""Dummy anomalies: clusters of normal codes, each told from all others by a linear classifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detectors.loops.batches import HELD_OUT, in_random_order
from detectors.loops.clustering import kmeans, nearest_mean
from detectors.loops.stage import Stage
from detectors.loops.training import train

LEAST_MEMBERS = 5
"""Windows without which a cluster is dropped."""

RESTARTS = 5
"""Runs of k-means, of which the tightest clusters are kept."""


class Assigned(NamedTuple):
    """Features ``[N, R]`` of windows and the cluster ``[N]`` that each belongs to."""

    features: Tensor
    cluster: Tensor


def find_clusters(codes: Tensor, clusters: int) -> Tensor:
    """Cluster ``[N]`` of each code, without those of a few members unless all are so small."""
    real = torch.ones_like(codes)
    trials = [kmeans(codes, real, clusters).centres for _ in range(RESTARTS)]
    found = [(nearest_mean(codes, real, centres), centres) for centres in trials]
    (_, index), centres = min(found, key=lambda trial: float(trial[0][0].square().sum()))
    size = torch.bincount(index, minlength=len(centres))
    kept = size >= min(LEAST_MEMBERS, int(size.max()))
    return nearest_mean(codes, real, centres[kept])[1]


def hinge(outputs: Tensor, cluster: Tensor) -> Tensor:
    """Sum over the classifiers of ``max(0, 1 - y g)``, ``[B]``; ``y`` is 1 for the own cluster."""
    sign = 2.0 * nn.functional.one_hot(cluster, outputs.shape[1]) - 1
    return (1 - sign * outputs).clamp(min=0).sum(dim=1)


def tell_apart(stage: Stage, head: nn.Linear, data: Assigned, slack: float) -> float:
    """Train one classifier per cluster; return their accuracy on the latest windows.

    Parameters
    ----------
    head
        The classifiers, which are the model of the stage.
    slack
        Weight of the hinge losses against that of the squared weights, ``C`` of a support vector
        machine.
    """
    late = max(1, round(HELD_OUT * len(data.cluster)))
    known = Assigned(*(part[: max(1, len(part) - late)] for part in data))
    held_out = Assigned(*(part[-late:] for part in data))
    ridge = 0.5 / (slack * len(known.cluster))

    def draw(generator: torch.Generator) -> Iterator[Assigned]:
        count, device = len(known.cluster), known.cluster.device
        for rows in in_random_order(count, stage.settings, generator, device):
            yield Assigned(known.features[rows], known.cluster[rows])

    def loss(batch: Assigned) -> Tensor:
        losses = hinge(head(batch.features), batch.cluster)
        return losses + ridge * head.weight.square().sum()

    def validate() -> float:
        with torch.no_grad():
            return float(loss(held_out).mean())

    train(stage, draw, loss, validate=validate)
    return float((head(held_out.features).argmax(dim=1) == held_out.cluster).float().mean())
