"""Reconstruction: a network learns to give back the windows that it was shown."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from detectors.batch import WindowBatch
from detectors.loops.training import Stage, held_out_loss, minibatches, train
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

    train(
        stage,
        lambda generator: minibatches(data, stage.settings, generator),
        loss,
        validate=lambda: held_out_loss(loss, held_out, stage.settings),
    )
