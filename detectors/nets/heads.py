"""From hidden states back to windows: numbers as they are, categories as logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.batch import NEW, WindowBatch


@dataclass(frozen=True)
class Guess:
    """What a network says the steps of a window should be.

    Attributes
    ----------
    num
        ``[B, T, F]`` scaled numbers.
    logits
        ``[B, T, V_c]`` per category field.
    """

    num: Tensor
    logits: tuple[Tensor, ...]


class WindowHead(nn.Module):
    """One linear layer from a hidden state to all numbers and logits of its step."""

    def __init__(self, hidden: int, features: int, vocab: Sequence[int]) -> None:
        super().__init__()
        self.widths = [features, *vocab]
        self.linear = nn.Linear(hidden, sum(self.widths))

    def forward(self, hidden: Tensor) -> Guess:
        """Take ``[B, T, hidden]``."""
        num, *logits = torch.split(self.linear(hidden), self.widths, dim=-1)
        return Guess(num, tuple(logits))


def surprisal(guess: Guess, data: WindowBatch) -> Tensor:
    """Negative log-likelihood of each category, ``[B, T, C]`` nats, 0 under the mask."""
    if not guess.logits:
        return data.num.new_zeros((*data.mask.shape, 0))
    fields = [
        nn.functional.cross_entropy(
            logits.flatten(0, 1), data.cat[:, :, i].flatten(), reduction="none"
        ).view(data.mask.shape)
        for i, logits in enumerate(guess.logits)
    ]
    return torch.stack(fields, dim=-1) * data.mask.unsqueeze(-1)


def new_surcharge(data: WindowBatch) -> Tensor:
    """``[B, T, C]`` nats to add wherever the id of new values is scored.

    Id 1 stands for at least ``V`` values that were never seen, so that one of them is ``V`` times
    less likely than the id as a whole. Without this, a vocabulary above a hundred makes the 1 % of
    id 1 in training look likelier than a known value.
    """
    charge = torch.tensor([math.log(size) for size in data.vocab], device=data.cat.device)
    return (data.cat == NEW) * charge


def window_loss(guess: Guess, data: WindowBatch) -> Tensor:
    """Squared error of the numbers plus weighted cross-entropy of the categories, ``[B]``.

    Fields are summed and real steps averaged. A category weighs ``1 / log(max(V, 3))``: a uniform
    guess then costs 1 whatever the vocabulary, as does the median for a scaled number.
    """
    real = data.mask.unsqueeze(-1)
    squares = ((guess.num - data.num).square() * real).sum(dim=-1)
    weights = [1 / math.log(max(size, 3)) for size in data.vocab]
    nats = surprisal(guess, data) * torch.tensor(weights, device=data.num.device)
    return per_step_mean(squares + nats.sum(dim=-1), data.mask)


def per_step_mean(steps: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``[B, T]`` over the real steps; 0 for a window without any."""
    return (steps * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
