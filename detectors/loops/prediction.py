"""Prediction: a network learns to say each step of a window from the steps before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.device import beside
from detectors.loops.batches import held_out_loss, minibatches
from detectors.loops.stage import Stage
from detectors.loops.training import train
from detectors.nets.heads import Guess, window_loss


def predict_steps(
    stage: Stage,
    data: WindowBatch,
    held_out: WindowBatch,
    distance: Callable[[WindowBatch], Tensor],
    misplace: float = 0.0,
) -> None:
    """Minimise the distance between the predicted and the true steps.

    Parameters
    ----------
    data, held_out
        Windows to learn from, and later ones that decide when to stop.
    distance
        ``[B]``: how far the predictions of ``stage.model`` for all steps of a window are from it.
    misplace
        Share of the steps that training shows in the wrong place.
    """

    def draw(generator: torch.Generator) -> Iterator[WindowBatch]:
        for batch in minibatches(data, stage.settings, generator):
            yield misplaced(batch, misplace, generator) if misplace else batch

    train(
        stage,
        draw,
        distance,
        validate=lambda: held_out_loss(distance, held_out, stage.settings),
    )


class Gapped(NamedTuple):
    """A mini-batch: windows, and which of their real steps ``[B, T]`` are hidden."""

    windows: WindowBatch
    hidden: Tensor


def fill_in(
    stage: Stage,
    data: WindowBatch,
    held_out: WindowBatch,
    network: Callable[[Gapped], Guess],
    share: float,
) -> None:
    """Minimise the error of saying steps that are hidden, from those that are not.

    Parameters
    ----------
    data, held_out
        Windows to learn from, and later ones that decide when to stop.
    network
        To guesses for all steps, through ``stage.model``.
    share
        Of the steps that is hidden.
    """

    def gapped(windows: WindowBatch, generator: torch.Generator) -> Gapped:
        draws = beside(torch.rand(windows.mask.shape, generator=generator), windows.mask)
        return Gapped(windows, (draws < share) & windows.mask)

    def loss(batch: Gapped) -> Tensor:
        return window_loss(network(batch), replace(batch.windows, mask=batch.hidden))

    def draw(generator: torch.Generator) -> Iterator[Gapped]:
        for batch in minibatches(data, stage.settings, generator):
            yield gapped(batch, generator)

    # the same gaps every time, so that epochs compare
    def validate() -> float:
        fixed = torch.Generator().manual_seed(stage.run.seed)
        return held_out_loss(lambda part: loss(gapped(part, fixed)), held_out, stage.settings)

    train(stage, draw, loss, validate=validate)


def delayed(steps: Tensor, start: Tensor) -> Tensor:
    """Shift ``[B, T, X]`` one step to the right behind ``start [X]``; the last step falls out.

    A causal network over the result says step ``t`` from the steps before ``t`` alone.
    """
    first = start.expand(len(steps), 1, -1)
    return torch.cat([first, steps[:, :-1]], dim=1)


def misplaced(data: WindowBatch, share: float, generator: torch.Generator) -> WindowBatch:
    """Move a random share of the steps of each window to random places in it.

    Events of processes that run side by side come in many orders, most of them too rare to be seen
    in training. A network that has seen events out of place finds them unusual, not impossible.
    """
    windows, steps = data.mask.shape
    device = data.mask.device
    moves, places = beside(torch.rand((2, windows, steps), generator=generator), data.mask)
    own = torch.arange(steps, device=device).expand(windows, -1)
    wanted = torch.where(moves < share, places * data.lengths.unsqueeze(1) - 0.5, own.float())
    order = torch.where(data.mask, wanted, steps + own.float()).argsort(dim=1).unsqueeze(-1)
    num = data.num.gather(1, order.expand_as(data.num))
    return replace(data, num=num, cat=data.cat.gather(1, order.expand_as(data.cat)))
