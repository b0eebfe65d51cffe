"""Networks of adversarial detectors: makers, encoders and judges of flat rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from detectors.nets.mlp import mlp

Norm = Literal["none", "layer", "spectral"]

leaky = partial(nn.LeakyReLU, 0.2)


def generator(code: int, hidden: Sequence[int], columns: int) -> nn.Sequential:
    """``K - hidden - D`` with an output in -1 .. 1."""
    return mlp([code, *hidden, columns]).append(nn.Tanh())


def encoder(
    columns: int, hidden: Sequence[int], code: int, *, norm: Norm = "none"
) -> nn.Sequential:
    """``D - hidden - K`` with a linear output."""
    layers = [*_hidden([columns, *hidden], norm, 0.0), _linear(hidden[-1], code, norm)]
    return nn.Sequential(*layers)


class Critic(nn.Module):
    """From rows to a logit, by way of features that detectors compare rows by.

    Parameters
    ----------
    inputs, hidden
        ``D``, and widths of the hidden layers; the features are what the last one gives.
    norm
        None, a layer norm, or weights divided by their largest singular value, which keeps a
        judge from growing arbitrarily sure.
    dropout
        Share of each hidden layer that training hides.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], *, norm: Norm = "none", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(*_hidden([inputs, *hidden], norm, dropout))
        self.head = _linear(hidden[-1], 1, norm)

    def features(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to ``[B, H]``."""
        found: Tensor = self.body(rows)
        return found

    def judge(self, features: Tensor) -> Tensor:
        """``[B, H]`` to logits ``[B]``."""
        logits: Tensor = self.head(features).squeeze(-1)
        return logits

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to logits ``[B]``."""
        return self.judge(self.features(rows))


class PairCritic(nn.Module):
    """Judge of rows beside their codes: a branch for each of the two, and layers over both.

    Parameters
    ----------
    columns, code
        Widths of rows and codes. The codes' branch is layer-normalised, because codes may be of
        any size and rows are not.
    branch, hidden
        Width of each branch, and widths of the layers over them.
    norm, dropout
        As of :class:`Critic`.
    """

    def __init__(
        self,
        columns: int,
        code: int,
        branch: int,
        hidden: Sequence[int],
        *,
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.rows = nn.Sequential(_linear(columns, branch, norm), leaky())
        self.codes = nn.Sequential(_linear(code, branch, norm), nn.LayerNorm(branch), leaky())
        self.joint = Critic(2 * branch, hidden, norm=norm, dropout=dropout)

    def features(self, rows: Tensor, codes: Tensor) -> Tensor:
        """``[B, D]`` and ``[B, K]`` to ``[B, H]``."""
        return self.joint.features(torch.cat([self.rows(rows), self.codes(codes)], dim=1))

    def forward(self, rows: Tensor, codes: Tensor) -> Tensor:
        """``[B, D]`` and ``[B, K]`` to logits ``[B]``."""
        return self.joint.judge(self.features(rows, codes))


class Makers(nn.Module):
    """Makers ``D - D - D`` side by side, which at first hand on what they are given in -1 .. 1.

    Parameters
    ----------
    count, columns
        ``k`` and ``D``.
    """

    heights: Tensor

    def __init__(self, count: int, columns: int) -> None:
        super().__init__()
        same = torch.eye(columns).expand(count, -1, -1)
        self.first, self.second = (nn.Parameter(same.clone()) for _ in range(2))
        up = torch.ones(count, 1, columns)
        self.offsets = nn.Parameter(torch.stack([up, -up]))
        heights = (torch.arange(count) + 0.5) / count
        self.register_buffer("heights", heights, persistent=False)

    def forward(self, noise: Tensor) -> Tensor:
        """``[B, D]`` to ``[k, B, D]``."""
        hidden = torch.relu(noise @ self.first + self.offsets[0])
        return hidden @ self.second + self.offsets[1]


def _hidden(widths: Sequence[int], norm: Norm, dropout: float) -> list[nn.Module]:
    """Layers that each end in an activation."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers.append(_linear(inputs, outputs, norm))
        if norm == "layer":
            layers.append(nn.LayerNorm(outputs))
        layers.append(leaky())
        if dropout:
            layers.append(nn.Dropout(dropout))
    return layers


def _linear(inputs: int, outputs: int, norm: Norm) -> nn.Module:
    layer = nn.Linear(inputs, outputs)
    return spectral_norm(layer) if norm == "spectral" else layer
