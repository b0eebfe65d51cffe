"""Strided convolutions over time, and their way back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

KERNEL, STRIDE, INNER_KERNEL = 5, 2, 3


class ConvAutoencoder(nn.Module):
    """``[B, T, inputs]`` to codes at every fourth step, and back to ``[B, T, width]``.

    Two levels halve the time each; output ``i`` of a level is centred at input ``2 i``.

    Parameters
    ----------
    inputs, width
        Numbers per step, and channels next to the windows; the inner level has twice as many.
    code
        Channels of the code.
    inner
        Channels of more layers of the encoder, on the inner level.

    Notes
    -----
    Every layer multiplies by the mask of its level: what lies behind the last real step is the
    zero that a convolution assumes there anyway, so that padding changes nothing.
    """

    def __init__(self, inputs: int, width: int, code: int, *, inner: Sequence[int] = ()) -> None:
        super().__init__()
        half = KERNEL // 2
        widths = [(inputs, width), (width, 2 * width)]
        self.down = nn.ModuleList(
            nn.Conv1d(a, b, KERNEL, stride=STRIDE, padding=half) for a, b in widths
        )
        deeper = [2 * width, *inner]
        self.inner = nn.ModuleList(
            nn.Conv1d(a, b, INNER_KERNEL, padding=INNER_KERNEL // 2) for a, b in pairwise(deeper)
        )
        self.squeeze = nn.Conv1d(deeper[-1], code, 1)
        self.widen = nn.Conv1d(code, 2 * width, 1)
        self.up = nn.ModuleList(
            nn.ConvTranspose1d(a, b, KERNEL, stride=STRIDE, padding=half)
            for a, b in ((2 * width, width), (width, width))
        )

    def encode(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, inputs]`` and ``mask [B, T]`` to codes ``[B, code, T / 4]``."""
        hidden, (_, *masks) = steps.transpose(1, 2), _levels(mask)
        for layer, real in zip(self.down, masks, strict=True):
            hidden = torch.relu(layer(hidden)) * real
        for layer in self.inner:
            hidden = torch.relu(layer(hidden)) * masks[-1]
        codes: Tensor = self.squeeze(hidden)
        return codes

    def decode(self, codes: Tensor, mask: Tensor) -> Tensor:
        """Codes to ``[B, T, width]``, 0 under the mask."""
        *masks, innermost = _levels(mask)
        hidden = torch.relu(self.widen(codes)) * innermost
        for layer, real in zip(self.up, reversed(masks), strict=True):
            hidden = torch.relu(layer(hidden, output_size=[real.shape[2]])) * real
        return hidden.transpose(1, 2)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """Encode and decode."""
        return self.decode(self.encode(steps, mask), mask)


def _levels(mask: Tensor) -> list[Tensor]:
    """Masks ``[B, 1, T]``, ``[B, 1, T / 2]`` and ``[B, 1, T / 4]`` as numbers."""
    whole = mask.unsqueeze(1).float()
    return [whole, whole[:, :, ::STRIDE], whole[:, :, :: STRIDE * STRIDE]]


def code_mean(codes: Tensor, mask: Tensor) -> Tensor:
    """Mean ``[B, code]`` of codes ``[B, code, T / 4]`` over the real ones."""
    real = _levels(mask)[-1]
    return (codes * real).sum(dim=2) / real.sum(dim=2).clamp(min=1)
