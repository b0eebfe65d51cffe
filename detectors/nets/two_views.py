"""Two convolutional views of windows, their values and their changes, each with a hyperplane."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from detectors.batch import WindowBatch
from detectors.inputs import LEAST_SPAN
from detectors.nets.conv import ConvAutoencoder, code_mean
from detectors.nets.embedding import SequenceInput
from detectors.nets.heads import Guess, RebuildingNet, WindowHead

Codes = tuple[Tensor, Tensor]
"""Codes ``[B, K, T / 4]`` of values and of changes."""


class View(ConvAutoencoder):
    """Autoencoder with codes that are at least 0, and a hyperplane over their direction."""

    def __init__(self, inputs: int, width: int, code: int) -> None:
        super().__init__(inputs, width, code, inner=(2 * width, width))
        self.weigh = nn.Parameter(torch.full((code,), code**-0.5))

    def encode(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, inputs]`` and ``mask [B, T]`` to codes ``[B, K, T / 4]``."""
        return super().encode(steps, mask).relu()

    def value(self, codes: Tensor, mask: Tensor) -> Tensor:
        """Return ``w . z``, ``[B]`` float64, for the direction ``z`` of the mean code.

        Where codes are alike, all values are near the largest one: in float32 most of what tells
        them apart would be rounding errors.
        """
        direction = normalize(code_mean(codes, mask).double())
        return direction @ self.weigh.double()


class DeepOneClassNet(RebuildingNet):
    """Two views of a window: its values, and their changes from step to step.

    Attributes
    ----------
    pace
        ``[F]``: what changes are divided by, their usual size.
    """

    pace: Tensor

    def __init__(self, features: int, vocab: tuple[int, ...], width: int, code: int) -> None:
        super().__init__()
        self.register_buffer("pace", torch.ones(features))
        self.input = SequenceInput(features, vocab)
        self.values = View(self.input.width, width, code)
        self.changes = View(features, width, code)
        self.head = WindowHead(width, features, vocab)
        self.change_head = WindowHead(width, features, ())

    def encode(self, columns: Tensor, mask: Tensor) -> Codes:
        """Take the columns ``[B, T, E]`` of windows; changes are those of the numbers."""
        moves = self.moves(columns[:, :, : len(self.pace)], mask)
        return self.values.encode(columns, mask), self.changes.encode(moves, mask)

    def learn_usual(self, data: WindowBatch) -> None:
        """Set the pace too by the windows of a fit."""
        super().learn_usual(data)
        usual = self.moves(data.num, data.mask)[data.mask].square().mean(dim=0).sqrt()
        self.pace.copy_(torch.where(usual > LEAST_SPAN, usual, 1.0))

    def moves(self, num: Tensor, mask: Tensor) -> Tensor:
        """Return changes ``[B, T, F]`` from the step before; 0 at the first, and under the mask."""
        steps = torch.diff(num, dim=1, prepend=num[:, :1])
        return steps / self.pace * mask.unsqueeze(-1)

    def margin_values(self, codes: Codes, mask: Tensor) -> Tensor:
        """``w . z`` of both views, ``[B, 2]``."""
        views = zip((self.values, self.changes), codes, strict=True)
        return torch.stack([view.value(own, mask) for view, own in views], dim=1)

    def rebuild(self, codes: Codes, mask: Tensor) -> Guess:
        """Say the values again."""
        guess: Guess = self.head(self.values.decode(codes[0], mask))
        return guess

    def rebuild_moves(self, codes: Codes, mask: Tensor) -> Guess:
        """Say the changes again."""
        guess: Guess = self.change_head(self.changes.decode(codes[1], mask))
        return guess

    def forward(self, data: WindowBatch) -> Guess:
        """Take windows to what their values should be."""
        return self.rebuild(self.encode(self.input(data), data.mask), data.mask)

    def squared_weights(self) -> Tensor:
        """``|w|²``, of both views together."""
        return self.values.weigh.square().sum() + self.changes.weigh.square().sum()
