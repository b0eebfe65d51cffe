"""Reconstruction: a network learns to give back the windows that it was shown."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from detectors.batch import WindowBatch
from detectors.loops.batches import held_out_loss, minibatches
from detectors.loops.stage import Stage
from detectors.loops.training import train
from detectors.nets.heads import Guess, window_loss


def reconstruct(
    stage: Stage,
    data: WindowBatch,
    held_out: WindowBatch,
    decode: Callable[[WindowBatch], Guess] | None = None,
) -> None:
    """Minimise the mixed error of numbers and categories between a window and its copy.

    Parameters
    ----------
    data, held_out
        Windows to learn from, and later ones that decide when to stop.
    decode
        From windows to their reconstruction; ``stage.model`` itself if left out.
    """
    network = decode or stage.model

    def loss(batch: WindowBatch) -> Tensor:
        return window_loss(network(batch), batch)

    minimise(stage, data, loss, lambda: held_out_loss(loss, held_out, stage.settings), new_ids=True)


def copy_rows(
    stage: Stage,
    data: WindowBatch,
    held_out: WindowBatch,
    rows: Callable[[WindowBatch], tuple[Tensor, Tensor]],
) -> None:
    """Minimise the squared errors with which ``stage.model`` copies flat rows.

    Parameters
    ----------
    data, held_out
        Windows to learn from, and later ones that decide when to stop.
    rows
        From windows to rows ``[B, D]``, and which of their entries are real.
    """

    def loss(batch: WindowBatch) -> Tensor:
        flat, real = rows(batch)
        errors: Tensor = ((flat - stage.model(flat)) * real).square().sum(dim=1)
        return errors

    minimise(
        stage, data, loss, lambda: held_out_loss(loss, held_out, stage.settings), new_ids=False
    )


def minimise(
    stage: Stage,
    data: WindowBatch,
    loss: Callable[[WindowBatch], Tensor],
    validate: Callable[[], float],
    *,
    new_ids: bool,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Minimise a loss ``[B]`` over random mini-batches of windows.

    Parameters
    ----------
    validate
        What the best weights are chosen by, after each epoch.
    new_ids
        Whether a small share of the ids is shown as new.
    after_epoch
        Called after each epoch with its number, counted from 1.
    """
    train(
        stage,
        lambda generator: minibatches(data, stage.settings, generator, new_ids=new_ids),
        loss,
        validate=validate,
        after_epoch=after_epoch,
    )
