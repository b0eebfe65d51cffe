"""Dense autoencoders over flat rows: a deep one, and one with a single layer of tied weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detectors.nets.mlp import mlp


def code_width(inputs: int) -> int:
    """Return an eighth of the inputs, at least 2, but always fewer than there are inputs.

    A code as wide as its input can copy everything, anomalies too.
    """
    return max(1, min(max(2, inputs // 8), inputs - 1))


class DenseAutoencoder(nn.Module):
    """``D - hidden - code - hidden reversed - D`` with a linear code and a linear output.

    Parameters
    ----------
    inputs
        ``D``.
    hidden
        Widths of the encoder's hidden layers.
    code
        Width of the code.
    activation
        Between all layers.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        code: int,
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.encoder = mlp([inputs, *hidden, code], activation=activation)
        self.decoder = mlp([code, *reversed(hidden), inputs], activation=activation)

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to its copy."""
        copy: Tensor = self.decoder(self.encoder(rows))
        return copy


class CorruptedAutoencoder(DenseAutoencoder):
    """Dense autoencoder that has to do without a random share of its inputs in training.

    Parameters
    ----------
    inputs, hidden, code
        As in :class:`DenseAutoencoder`.
    corrupt
        That share.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], code: int, corrupt: float) -> None:
        super().__init__(inputs, hidden, code)
        self.corrupt = nn.Dropout(corrupt)

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to its copy."""
        return super().forward(self.corrupt(rows))


class ViewAutoencoders(nn.Module):
    """One autoencoder for each of several views, which stand beside each other in a row.

    Parameters
    ----------
    widths
        Columns of each view.
    hidden, code, corrupt
        As in :class:`CorruptedAutoencoder`.
    squash
        What the codes go through.
    """

    def __init__(
        self,
        widths: Sequence[int],
        hidden: Sequence[int],
        code: int,
        corrupt: float,
        squash: Callable[[], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.widths = list(widths)
        nets = [CorruptedAutoencoder(width, hidden, code, corrupt) for width in widths]
        for net in nets:
            net.encoder.append(squash())
        self.nets: nn.ModuleList = nn.ModuleList(nets)

    def encode(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to the codes ``[B, views, K]``."""
        views = torch.split(rows, self.widths, dim=1)
        codes = [net.get_submodule("encoder")(v) for net, v in zip(self.nets, views, strict=True)]
        return torch.stack(codes, dim=1)

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to its copy."""
        views = torch.split(rows, self.widths, dim=1)
        return torch.cat([net(view) for net, view in zip(self.nets, views, strict=True)], dim=1)


class TiedAutoencoder(nn.Module):
    """One layer that is read in both directions: ``h = W x + b``, ``xhat = W' f(h) + b'``.

    Tied weights keep an encoder from shrinking its code while the decoder grows to make up for it.

    Parameters
    ----------
    inputs, hidden
        ``D`` and the number of units ``H``.
    activation
        ``f``, from ``[B, H]`` to ``[B, H]``.
    """

    def __init__(self, inputs: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(hidden, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.offset = nn.Parameter(torch.zeros(inputs))
        self.activation = activation

    def encode(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to the code ``f(W x + b)``, ``[B, H]``."""
        return self.activation(nn.functional.linear(rows, self.weight, self.bias))

    def decode(self, code: Tensor) -> Tensor:
        """``[B, H]`` to the copy ``[B, D]``."""
        return code @ self.weight + self.offset

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to its copy."""
        return self.decode(self.encode(rows))
