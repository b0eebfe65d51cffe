"""Windows in mini-batches: which teach, which judge, and in what order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.loops.stage import Training
from detectors.nets.embedding import show_new

HELD_OUT = 0.1
"""Share of the windows, the latest ones, that training never sees."""


def split(data: WindowBatch) -> tuple[WindowBatch, WindowBatch]:
    """Cut off the latest tenth for early stopping and statistics; a lone window serves as both."""
    if len(data) == 1:
        return data, data
    cut = len(data) - max(1, round(HELD_OUT * len(data)))
    return data[:cut], data[cut:]


def in_random_order(
    count: int, settings: Training, generator: torch.Generator, device: torch.device
) -> Iterator[Tensor]:
    """One epoch of mini-batches, as indices into ``count`` instances; drawn on the CPU."""
    order = torch.randperm(count, generator=generator)
    order = order[: settings.batch * settings.steps_per_epoch].to(device, non_blocking=True)
    for start in range(0, len(order), settings.batch):
        yield order[start : start + settings.batch]


def minibatches(
    data: WindowBatch, settings: Training, generator: torch.Generator, *, new_ids: bool = True
) -> Iterator[WindowBatch]:
    """One epoch in random order; with ``new_ids`` a small share of the ids is shown as new."""
    for chosen in in_random_order(len(data), settings, generator, data.mask.device):
        yield show_new(data[chosen], generator) if new_ids else data[chosen]


def trimmed_mean(losses: Tensor, share: float) -> tuple[Tensor, int]:
    """Mean of ``[B]`` losses without the largest ``share`` of them, and how many those were."""
    out = math.floor(share * len(losses))
    if out == 0:
        return losses.mean(), 0
    return losses.topk(len(losses) - out, largest=False, sorted=False).values.mean(), out


def evaluate(function: Callable[[WindowBatch], Tensor], data: WindowBatch, batch: int) -> Tensor:
    """Apply ``function`` to all windows, without gradients and a few mini-batches at a time."""
    with torch.no_grad():
        return torch.cat([function(part) for part in data.chunks(4 * batch)])


def held_out_loss(
    loss: Callable[[WindowBatch], Tensor], data: WindowBatch, settings: Training
) -> float:
    """Trimmed mean loss of windows that training has not seen."""
    losses = evaluate(loss, data, settings.batch)
    return trimmed_mean(losses, settings.trim)[0].item()
