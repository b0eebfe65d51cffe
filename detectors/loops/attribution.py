"""Explanations of a score by its gradient on the way from a normal window to the one scored.

Sundararajan et al., "Axiomatic attribution for deep networks", 2017: integrated gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detectors.batch import WindowBatch

POINTS = 8
"""Points on the way at which the gradient is taken."""

EXAMPLES = 256
"""Windows of the fit that explanations start from."""


def spread_out(data: WindowBatch) -> WindowBatch:
    """``EXAMPLES`` windows at equal distances; all of them if they are fewer."""
    return data[:: max(1, len(data) // EXAMPLES)][:EXAMPLES]


def nearest(rows: Tensor, examples: Tensor) -> Tensor:
    """For rows ``[B, D]`` which of the examples ``[N, D]`` is nearest, ``[B]``.

    Nearest by absolute differences, of which one corrupted entry is only one.
    """
    return torch.cdist(rows, examples, p=1.0).argmin(dim=1)


def path_gradient(score: Callable[[Tensor], Tensor], start: Tensor, end: Tensor) -> Tensor:
    """How much each entry of ``end [B, ...]`` adds to its score ``[B]``, where it adds any.

    Parameters
    ----------
    score
        Points ``[B, ...]`` to ``[B]``; tensors made in inference mode may not take part in it.
    start
        Normal windows to come from.
    """
    # a GRU in evaluation mode has gradients only outside cuDNN
    cudnn = torch.backends.cudnn.flags(enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), cudnn:
        start = start.clone()
        gap = end - start
        total = torch.zeros_like(gap)
        for i in range(POINTS):
            point = (start + (i + 0.5) / POINTS * gap).requires_grad_()
            total += torch.autograd.grad(score(point).sum(), point)[0]
        return (gap * total / POINTS).clamp(min=0.0)
