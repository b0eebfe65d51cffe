"""Prediction: a network learns to say each step of a window from the steps before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.loops.training import Stage, held_out_loss, minibatches, train


def predict_steps(
    stage: Stage,
    data: WindowBatch,
    held_out: WindowBatch,
    distance: Callable[[WindowBatch], Tensor],
) -> None:
    """Minimise the distance between the predicted and the true steps.

    Parameters
    ----------
    data, held_out
        Windows to learn from, and later ones that decide when to stop.
    distance
        ``[B]``: how far the predictions of ``stage.model`` for all steps of a window are from it.
    """
    train(
        stage,
        lambda generator: minibatches(data, stage.settings, generator),
        distance,
        validate=lambda: held_out_loss(distance, held_out, stage.settings),
    )


def delayed(steps: Tensor, start: Tensor) -> Tensor:
    """Shift ``[B, T, X]`` one step to the right behind ``start [X]``; the last step falls out.

    A causal network over the result says step ``t`` from the steps before ``t`` alone.
    """
    first = start.expand(len(steps), 1, -1)
    return torch.cat([first, steps[:, :-1]], dim=1)
