"""Which entries make a score high: its gradient on the way from a normal window.

Sundararajan et al. 2017, "Axiomatic attribution for deep networks".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

SMOOTHING = 8
"""Points on the way from a normal window at which explanations take the gradient."""

EXAMPLES = 256
"""Windows of the fit that explanations start from."""


def nearest_example(columns: Tensor, examples: Tensor) -> Tensor:
    """For windows ``[B, T, E]`` the nearest of ``[N, T', E]``, cut or padded to ``T`` steps.

    Nearest by absolute differences, of which one corrupted entry is only one.
    """
    missing = columns.shape[1] - examples.shape[1]
    known = nn.functional.pad(examples, (0, 0, 0, missing))  # cuts where negative
    gaps = torch.cdist(columns.flatten(1), known.flatten(1), p=1.0)
    return known[gaps.argmin(dim=1)]


def path_gradient(score: Callable[[Tensor], Tensor], start: Tensor, end: Tensor) -> Tensor:
    """``[B, ...]``: how much each entry adds to a score ``[B]`` between two points, if anything."""
    # a GRU in evaluation mode has gradients only outside cuDNN
    cudnn = torch.backends.cudnn.flags(enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), cudnn:
        gap = end - start
        total = torch.zeros_like(gap)
        for i in range(SMOOTHING):
            point = (start + (i + 0.5) / SMOOTHING * gap).requires_grad_()
            total += torch.autograd.grad(score(point).sum(), point)[0]
        return (gap * total / SMOOTHING).clamp(min=0.0)
