"""One class: codes of normal windows are drawn towards a fixed centre."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.loops.training import Stage, evaluate, held_out_loss, minibatches, train

LEAST_COORDINATE = 0.1
"""Coordinates of the centre keep this distance from 0, which a network without constants reaches
with all weights at 0 and for every input."""

WARM_UP = 10
"""Epochs before the soft boundary gets its radius; until then it covers nothing, and every window
is drawn in."""

REFRESH = 5
"""Epochs between two updates of the radius."""


def initial_centre(codes: Tensor) -> Tensor:
    """Mean ``[K]`` of the codes ``[N, K]`` of one pass before training, kept off 0."""
    centre = codes.mean(dim=0)
    sign = torch.where(centre < 0, -1.0, 1.0)
    return torch.where(centre.abs() < LEAST_COORDINATE, sign * LEAST_COORDINATE, centre)


def squared_distance(codes: Tensor, centre: Tensor) -> Tensor:
    """``[B]`` squared distances of codes ``[B, K]``."""
    return (codes - centre).square().sum(dim=-1)


@dataclass
class Boundary:
    """Sphere around the centre that may leave a share ``nu`` of the windows outside.

    Attributes
    ----------
    nu
        That share.
    radius
        ``[]`` squared radius.
    """

    nu: float
    radius: Tensor

    def update(self, distances: Tensor) -> None:
        """Set the squared radius to the ``1 - nu`` quantile of squared distances ``[N]``."""
        at = min(len(distances) - 1, int((1 - self.nu) * len(distances)))
        self.radius = distances.sort().values[at]

    def loss(self, distances: Tensor) -> Tensor:
        """``r² + max(0, d² - r²) / nu`` of each window."""
        return self.radius + (distances - self.radius).clamp(min=0) / self.nu


def draw_in(
    stage: Stage,
    data: WindowBatch,
    held_out: WindowBatch,
    distance: Callable[[WindowBatch], Tensor],
    boundary: Boundary | None,
) -> None:
    """Minimise the squared distances to the centre, or what of them the boundary does not allow.

    Parameters
    ----------
    data, held_out
        Windows to learn from, and later ones that decide when to stop.
    distance
        ``[B]`` squared distances, through ``stage.model``.
    boundary
        Soft boundary; ``None`` for the plain one-class loss. Its radius is updated between epochs
        and no gradient flows into it.
    """

    def loss(batch: WindowBatch) -> Tensor:
        distances = distance(batch)
        return distances if boundary is None else boundary.loss(distances)

    def after_epoch(done: int) -> None:
        if boundary is not None and done >= WARM_UP and done % REFRESH == 0:
            boundary.update(evaluate(distance, data, stage.settings.batch))

    train(
        stage,
        # shown as an input, a new id would be drawn to the centre like the normal ones
        lambda generator: minibatches(data, stage.settings, generator, new_ids=False),
        loss,
        validate=lambda: held_out_loss(distance, held_out, stage.settings),
        after_epoch=after_epoch,
    )
    if boundary is not None:
        boundary.update(evaluate(distance, data, stage.settings.batch))
