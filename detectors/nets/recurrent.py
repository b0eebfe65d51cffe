"""What recurrent encoders share: right padding that never enters a state."""

from __future__ import annotations

import torch
from torch import Tensor


def last_real(outputs: Tensor, mask: Tensor) -> Tensor:
    """Return the output at the last real step of each window, ``[B, T, H]`` to ``[B, H]``.

    A recurrent network reads from left to right and padding stands on the right, so the output at
    the last real step has seen every real step and no padded one: the state is held there, and one
    fused call over the padded batch is enough. A window without real steps gives zeros.
    """
    lengths = mask.sum(dim=1)
    at = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, outputs.shape[2])
    last = outputs.gather(1, at).squeeze(1)
    return last * (lengths > 0).unsqueeze(-1)


def reverse_real(steps: Tensor, mask: Tensor) -> Tensor:
    """Reverse the real steps of each window ``[B, T, X]``; padding stays on the right.

    Steps under the mask repeat the first real one; callers ignore them.
    """
    lengths = mask.sum(dim=1, keepdim=True)
    at = (lengths - 1 - torch.arange(steps.shape[1], device=steps.device)).clamp(min=0)
    return steps.gather(1, at.unsqueeze(-1).expand(-1, -1, steps.shape[2]))
