"""Density of a code, one coordinate after the other, by layers with masked connections."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MaskedLinear(nn.Module):
    """A layer over ``K`` coordinates in which none sees a later one.

    Parameters
    ----------
    coordinates, inputs, outputs
        ``K``, and units per coordinate before and after the layer.
    strict
        Whether a coordinate does not even see itself.
    """

    mask: Tensor

    def __init__(self, coordinates: int, inputs: int, outputs: int, *, strict: bool) -> None:
        super().__init__()
        order = torch.arange(coordinates)
        seen = order[:, None] < order + (0 if strict else 1)
        mask = seen.repeat_interleave(inputs, dim=0).repeat_interleave(outputs, dim=1).float()
        self.register_buffer("mask", mask, persistent=False)
        bound = 1 / math.sqrt(coordinates * inputs)
        self.weight = nn.Parameter(torch.empty_like(mask).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(coordinates * outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """``[B, K * inputs]`` to ``[B, K * outputs]``."""
        return torch.addmm(self.bias, inputs, self.weight * self.mask)


class AutoregressiveDensity(nn.Module):
    """``p(z) = prod_j p(z_j | z_1 .. z_(j-1))`` of codes in 0 .. 1, over ``bins`` bins each.

    Parameters
    ----------
    coordinates, bins
        ``K``, and bins of each coordinate.
    width, layers
        Units per coordinate between the layers, and number of layers.
    """

    def __init__(self, coordinates: int, bins: int, width: int, layers: int) -> None:
        super().__init__()
        self.bins = bins
        sizes = [1, *[width] * (layers - 1), bins]
        self.layers = nn.ModuleList(
            MaskedLinear(coordinates, sizes[i], sizes[i + 1], strict=i == 0) for i in range(layers)
        )

    def forward(self, codes: Tensor) -> Tensor:
        """``[B, K]`` to the log-probabilities ``[B, K, bins]``, float64.

        They differ between windows by far less than they are; float32 would round that away.
        """
        hidden: Tensor = self.layers[0](codes)
        for layer in self.layers[1:]:
            hidden = layer(nn.functional.leaky_relu(hidden))
        return hidden.view(*codes.shape, self.bins).double().log_softmax(dim=-1)

    def surprisal(self, codes: Tensor) -> Tensor:
        """``-log p(z_j | z_1 .. z_(j-1))``, ``[B, K]`` nats.

        Between the centres of two bins the logarithms are interpolated: a code that moves a little
        across an edge does not jump. No gradient flows through the place of a code on the axis.
        """
        place = (codes.detach() * self.bins - 0.5).clamp(0, self.bins - 1)
        low = place.floor().clamp(max=max(0, self.bins - 2))
        share, index = place - low, low.long().unsqueeze(-1)
        log_p = self(codes)
        below = log_p.gather(-1, index).squeeze(-1)
        above = log_p.gather(-1, (index + 1).clamp(max=self.bins - 1)).squeeze(-1)
        return -torch.lerp(below, above, share.double())
