"""One class: codes of normal windows are drawn towards a fixed centre."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.device import beside
from detectors.loops.batches import evaluate, held_out_loss, minibatches, trimmed_mean
from detectors.loops.stage import Stage
from detectors.loops.training import train

LEAST_COORDINATE = 0.1
"""Coordinates of the centre keep this distance from 0, which a network without constants reaches
with all weights at 0 and for every input."""

WARM_UP = 10
"""Epochs before the soft boundary gets its radius; until then it covers nothing, and every window
is drawn in."""

LABELLED_SHARE = 0.1
"""Labelled windows in a mini-batch as a share of the others, drawn with replacement; a few among
many would otherwise hardly ever be met."""

SOFTENING = 1e-6
"""Added to the distances of labelled anomalies before they are inverted."""

CLOSEST = 0.01
"""Labelled anomalies nearer to the centre than this share of the other windows push no harder: what
lies in the midst of normal windows is likelier a wrong label than an anomaly."""

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


def push_out(distances: Tensor, anomalous: Tensor, others: Tensor) -> Tensor:
    """Squared distances ``[M]`` of labelled normals, inverse ones of labelled anomalies.

    Parameters
    ----------
    anomalous
        ``[M]`` bool: which of the labelled windows are anomalies.
    others
        ``[n]`` squared distances of unlabelled windows; the ``CLOSEST`` of them cap the inverse.
    """
    closest = others.detach().kthvalue(max(1, int(CLOSEST * len(others)))).values
    inverse = 1 / (torch.maximum(distances, closest) + SOFTENING)
    return torch.where(anomalous, inverse, distances)


@dataclass(frozen=True)
class PartlyLabelled:
    """A mini-batch: unlabelled windows, then labelled ones.

    Attributes
    ----------
    windows
        ``n + M`` windows.
    anomalous
        ``[M]`` bool, of the labelled ones.
    """

    windows: WindowBatch
    anomalous: Tensor


def draw_apart(
    stage: Stage,
    data: WindowBatch,
    held_out: WindowBatch,
    labelled: WindowBatch,
    anomalous: Tensor,
    distance: Callable[[WindowBatch], Tensor],
    weight: float,
) -> None:
    """Minimise the squared distances of all windows but labelled anomalies, and push those out.

    The loss is the mean of ``d²`` over unlabelled windows, without the share that is trimmed, plus
    ``weight`` times the mean over labelled ones of ``d²`` (normal) or ``1 / d²`` (anomalous).

    Parameters
    ----------
    data, held_out
        Unlabelled windows to learn from, and later ones that help to decide when to stop.
    labelled, anomalous
        ``M`` labelled windows, and which of them are anomalies.
    distance
        ``[B]`` squared distances, through ``stage.model``.
    """
    settings, known = stage.settings, len(labelled)
    pool = WindowBatch.concatenate([labelled, data])

    def draw(generator: torch.Generator) -> Iterator[PartlyLabelled]:
        order = known + torch.randperm(len(data), generator=generator)
        order = order[: settings.batch * settings.steps_per_epoch]
        for rows in torch.split(order, settings.batch):
            size = max(1, round(LABELLED_SHARE * len(rows))) if known else 0
            taken = torch.randint(max(1, known), (size,), generator=generator)
            chosen = beside(torch.cat([rows, taken]), anomalous)
            yield PartlyLabelled(pool[chosen], anomalous[chosen[len(rows) :]])

    def both(distances: Tensor, marks: Tensor) -> Tensor:
        # one value for each unlabelled window: trimming must not reach the labelled ones
        others, own = distances.tensor_split([len(distances) - len(marks)])
        if len(marks) == 0:
            return others
        return others + weight * push_out(own, marks, others).mean()

    def validate() -> float:
        last = WindowBatch.concatenate([held_out, labelled])
        values = both(evaluate(distance, last, settings.batch), anomalous)
        return trimmed_mean(values, settings.trim)[0].item()

    train(
        stage, draw, lambda batch: both(distance(batch.windows), batch.anomalous), validate=validate
    )
