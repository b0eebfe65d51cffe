"""Which inputs a score comes from, by its gradient.

Sundararajan et al. 2017, "Axiomatic attribution for deep networks".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detectors.batch import WindowBatch

SMOOTHING = 8
"""Points on the way to a window at which the gradient along the path is taken."""

EXAMPLES = 256
"""Windows of the fit that explanations start from."""


def gradient_times_input(score: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Size ``[B, ...]`` of gradient times input.

    Parameters
    ----------
    score
        ``[B, ...]`` to ``[B]``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        point = inputs.clone().requires_grad_()
        gradient = torch.autograd.grad(score(point).sum(), point)[0]
    return (gradient * inputs).abs()


def path_change(score: Callable[[Tensor], Tensor], start: Tensor, end: Tensor) -> Tensor:
    """By how much each entry ``[B, ...]`` changes the score on the straight way.

    The mean gradient over the way, times its length in the entry. Nothing that ``score`` uses may
    be an inference tensor: make the inputs inside ``torch.inference_mode(False)``.

    Parameters
    ----------
    score
        ``[B, ...]`` to ``[B]``.
    start, end
        Where the ways begin, and the windows to explain.
    """
    # a GRU in evaluation mode has gradients only outside cuDNN
    cudnn = torch.backends.cudnn.flags(enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), cudnn:
        start = start.clone()
        gap = end - start
        total = torch.zeros_like(gap)
        for i in range(SMOOTHING):
            point = (start + (i + 0.5) / SMOOTHING * gap).requires_grad_()
            total += torch.autograd.grad(score(point).sum(), point)[0]
        return gap * total / SMOOTHING


def path_gradient(score: Callable[[Tensor], Tensor], start: Tensor, end: Tensor) -> Tensor:
    """How much each entry adds to the score on the straight way, where it adds any.

    See :func:`path_change`.
    """
    return path_change(score, start, end).clamp(min=0.0)


def from_nearest(
    score: Callable[[Tensor, Tensor], Tensor],
    columns: Tensor,
    mask: Tensor,
    examples: Tensor,
    way: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor] = path_gradient,
) -> Tensor:
    """How much each entry ``[B, T, E]`` adds to a score on the way from the nearest example.

    Parameters
    ----------
    score
        Columns ``[B, T, E]`` and ``mask [B, T]`` to ``[B]``.
    examples
        ``[M, T', E]``, usual windows.
    way
        Shares the change of the score between two windows out among their entries.
    """
    with torch.inference_mode(False):
        mask = mask.clone()  # gradients need tensors of their own
    start = nearest_example(columns, examples) * mask.unsqueeze(-1)
    return way(lambda point: score(point, mask), start, columns)


def spread_out(data: WindowBatch) -> WindowBatch:
    """``EXAMPLES`` windows at equal distances; all of them if they are fewer."""
    return data[:: max(1, len(data) // EXAMPLES)][:EXAMPLES]


def nearest(rows: Tensor, examples: Tensor, real: Tensor | None = None) -> Tensor:
    """For rows ``[B, D]`` which of the examples ``[N, D]`` is nearest, ``[B]``.

    Nearest by absolute differences, of which one corrupted entry is only one.

    Parameters
    ----------
    real
        ``[B, D]``: 1 where an entry of a row counts; the others are 0 in the row as well.
    """
    gaps = torch.cdist(rows, examples, p=1.0)
    if real is not None:  # the others are as far off as the example is large there
        gaps = gaps - (1 - real) @ examples.abs().T
    return gaps.argmin(dim=1)


def nearest_example(windows: Tensor, examples: Tensor) -> Tensor:
    """For windows ``[B, T, E]`` the nearest of ``[M, T', E]``, cut or padded to ``T`` steps."""
    missing = windows.shape[1] - examples.shape[1]
    fitting = torch.nn.functional.pad(examples, (0, 0, 0, missing))  # cuts where negative
    return fitting[nearest(windows.flatten(1), fitting.flatten(1))]
