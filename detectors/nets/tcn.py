"""Temporal convolutional network: causal dilated convolutions in residual blocks.

Bai et al., "An empirical evaluation of generic convolutional and recurrent networks for sequence
modeling", 2018, without its dropout and weight normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

KERNEL = 3

MAX_BLOCKS = 6
"""Six blocks reach back over 253 steps; what is further back is rarely worth another block."""


def blocks_for(steps: int) -> int:
    """Fewest blocks, at most ``MAX_BLOCKS``, whose receptive field covers ``steps`` steps."""
    return max(1, min(MAX_BLOCKS, math.ceil(math.log2((steps + 3) / 4))))


class _Block(nn.Module):
    """Two causal convolutions and a shortcut around them."""

    def __init__(
        self, channels: int, dilation: int, bias: bool, activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.reach = (KERNEL - 1) * dilation
        self.first = nn.Conv1d(channels, channels, KERNEL, dilation=dilation, bias=bias)
        self.second = nn.Conv1d(channels, channels, KERNEL, dilation=dilation, bias=bias)
        self.activation = activation()

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, channels, T]`` to the same; ``mask [B, 1, T]``."""
        inner = self.activation(self.first(nn.functional.pad(steps, (self.reach, 0)))) * mask
        inner = self.activation(self.second(nn.functional.pad(inner, (self.reach, 0))))
        result: Tensor = (steps + inner) * mask
        return result


class Tcn(nn.Module):
    """Each output step sees its own and earlier input steps only.

    Parameters
    ----------
    inputs, channels
        Numbers per step, and width of the network.
    blocks
        Block ``i`` has dilation ``2**i``; the receptive field is ``1 + 4 * (2**blocks - 1)`` steps.
    bias
        Whether layers add a constant.

    Notes
    -----
    Every layer multiplies by the mask: a bias makes padded steps non-zero and the next layer
    would carry them back into real ones wherever padding is not strictly on the right.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        blocks: int,
        *,
        bias: bool = True,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.widen = nn.Conv1d(inputs, channels, 1, bias=bias)
        self.blocks = nn.ModuleList(_Block(channels, 2**i, bias, activation) for i in range(blocks))

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, inputs]`` and ``mask [B, T]`` to ``[B, T, channels]``."""
        real = mask.unsqueeze(1).to(steps.dtype)
        hidden: Tensor = self.widen(steps.transpose(1, 2)) * real
        for block in self.blocks:
            hidden = block(hidden, real)
        return hidden.transpose(1, 2)
