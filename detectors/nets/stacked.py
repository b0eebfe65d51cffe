"""Layers of many networks of one shape, side by side in one tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """One linear layer for each of ``M`` networks, in one batched product.

    Parameters
    ----------
    members, inputs, outputs
        ``M``, and the widths of the layer.
    bias
        Whether the layers add a constant.
    sparse
        Whether each layer lacks connections of its own, for good: as many are drawn with
        replacement as there are places, so that about 63 % of the places get one.
    """

    mask: Tensor | None

    def __init__(
        self, members: int, inputs: int, outputs: int, *, bias: bool = True, sparse: bool = False
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs)) if bias else None
        self.register_buffer("mask", _connections(members, inputs, outputs) if sparse else None)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[M, B, inputs]`` to ``[M, B, outputs]``."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        if self.bias is None:
            return torch.bmm(inputs, weight)
        return torch.baddbmm(self.bias, inputs, weight)


def _connections(members: int, inputs: int, outputs: int) -> Tensor:
    """``[M, inputs, outputs]``: 1 where there is a connection."""
    places = inputs * outputs
    drawn = torch.randint(places, (members, places))
    return torch.zeros(members, places).scatter_(1, drawn, 1.0).view(members, inputs, outputs)
