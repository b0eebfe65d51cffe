"""Strided convolutions over time, and their way back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

KERNEL, STRIDE = 5, 2


class ConvAutoencoder(nn.Module):
    """``[B, T, inputs]`` to codes at every fourth step, and back to ``[B, T, width]``.

    Two levels halve the time each; output ``i`` of a level is centred at input ``2 i``.

    Parameters
    ----------
    inputs, width
        Numbers per step, and channels next to the windows; the inner level has twice as many.
    code
        Channels of the code.

    Notes
    -----
    Every layer multiplies by the mask of its level: what lies behind the last real step is the
    zero that a convolution assumes there anyway, so that padding changes nothing.
    """

    def __init__(self, inputs: int, width: int, code: int) -> None:
        super().__init__()
        half = KERNEL // 2
        widths = [(inputs, width), (width, 2 * width)]
        self.down = nn.ModuleList(
            nn.Conv1d(a, b, KERNEL, stride=STRIDE, padding=half) for a, b in widths
        )
        self.squeeze = nn.Conv1d(2 * width, code, 1)
        self.widen = nn.Conv1d(code, 2 * width, 1)
        self.up = nn.ModuleList(
            nn.ConvTranspose1d(a, b, KERNEL, stride=STRIDE, padding=half)
            for a, b in ((2 * width, width), (width, width))
        )

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """Take ``mask [B, T]`` too; the result is 0 under it."""
        hidden, masks = steps.transpose(1, 2), [mask.unsqueeze(1).to(steps.dtype)]
        for layer in self.down:
            masks.append(masks[-1][:, :, ::STRIDE])
            hidden = torch.relu(layer(hidden)) * masks[-1]
        hidden = torch.relu(self.widen(self.squeeze(hidden))) * masks.pop()
        for layer in self.up:
            size = [masks[-1].shape[2]]
            hidden = torch.relu(layer(hidden, output_size=size)) * masks.pop()
        return hidden.transpose(1, 2)
