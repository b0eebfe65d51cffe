"""From hidden states back to windows: numbers as they are, categories as logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.batch import NEW, WindowBatch
from detectors.nets.embedding import NEW_SHARE


@dataclass(frozen=True)
class Guess:
    """What a network says the steps of a window should be.

    Attributes
    ----------
    num
        ``[B, T, F]`` scaled numbers.
    logits
        ``[B, T, V_c]`` per category field.
    surcharge
        ``[C]`` nats that a new value costs on top of its own logit.
    """

    num: Tensor
    logits: tuple[Tensor, ...]
    surcharge: Tensor


class WindowHead(nn.Module):
    """One linear layer from a hidden state to all numbers and logits of its step.

    Notes
    -----
    Id 1 stands for at least ``V`` values that were never seen, so that each of them is ``V`` times
    less likely than the id as a whole; and training shows the id in 1 % of the places, although new
    values may be far rarer. The surcharge makes up for both: ``log V``, and the log of 1 % over the
    share of new values that is to be expected by the Good-Turing estimate, the share of values seen
    exactly once. Without it, a vocabulary above a hundred makes a new value look likelier than a
    known one.
    """

    surcharge: Tensor

    def __init__(self, hidden: int, features: int, vocab: Sequence[int]) -> None:
        super().__init__()
        self.widths = [features, *vocab]
        self.linear = nn.Linear(hidden, sum(self.widths))
        self.register_buffer("surcharge", torch.tensor([math.log(size) for size in vocab]))

    def learn_novelty(self, data: WindowBatch) -> None:
        """Set the surcharge by the windows of a fit."""
        self.surcharge.copy_(new_value_surcharge(data))

    def forward(self, hidden: Tensor) -> Guess:
        """Take ``[B, T, hidden]``."""
        num, *logits = torch.split(self.linear(hidden), self.widths, dim=-1)
        return Guess(num, tuple(logits), self.surcharge)


def new_value_surcharge(data: WindowBatch) -> Tensor:
    """Nats ``[C]`` that a new value costs on top of its id's, by the windows of a fit.

    See the notes of :class:`WindowHead`.
    """
    surcharge = []
    for field, size in enumerate(data.vocab):
        counts = torch.bincount(data.cat[:, :, field][data.mask], minlength=size)
        rare = int((counts[NEW + 1 :] == 1).sum() + counts[NEW])
        share = (rare + 1) / (int(counts.sum()) + 1)
        surcharge.append(math.log(size) + max(0.0, math.log(NEW_SHARE / share)))
    return torch.tensor(surcharge, device=data.num.device)


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


def novelty(guess: Guess, data: WindowBatch) -> Tensor:
    """Surcharge ``[B, T, C]`` nats wherever the true id is that of new values."""
    return (data.cat == NEW) * guess.surcharge


class RebuildingNet(nn.Module):
    """A network from windows to :class:`Guess`, through its ``head``."""

    head: WindowHead

    def learn_usual(self, data: WindowBatch) -> None:
        """Set what does not come from training by the windows of a fit."""
        self.head.learn_novelty(data)


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
