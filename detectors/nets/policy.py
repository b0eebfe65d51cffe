"""What an agent gains by an action, and what it will do next, by the last few events."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from detectors.batch import PAD
from detectors.nets.embedding import embedding_width
from detectors.nets.mlp import mlp

BOUND = 5.0
"""Largest size of a reward, in nats."""


class ContextNet(nn.Module):
    """The last events before a step to some numbers."""

    def __init__(self, vocab: int, context: int, hidden: int, outputs: int) -> None:
        super().__init__()
        width = embedding_width(vocab)
        self.embedding = nn.Embedding(vocab, width, padding_idx=PAD)
        self.layers = mlp([context * width, hidden, hidden, outputs])

    def forward(self, states: Tensor) -> Tensor:
        """``[..., k]`` ids to ``[..., outputs]``."""
        result: Tensor = self.layers(self.embedding(states).flatten(-2))
        return result

    def some(self, states: Tensor, outputs: Tensor) -> Tensor:
        """Only the outputs ``[..., n]`` with the given numbers: all would fill the memory."""
        hidden = self.layers[:-1](self.embedding(states).flatten(-2))
        last = cast("nn.Linear", self.layers[-1])
        weight = nn.functional.embedding(outputs, last.weight)
        result: Tensor = (weight @ hidden.unsqueeze(-1)).squeeze(-1) + last.bias[outputs]
        return result


class RewardNet(nn.Module):
    """Several opinions on the reward of each action in a state."""

    def __init__(self, vocab: int, context: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.vocab, self.heads = vocab, heads
        self.body = ContextNet(vocab, context, hidden, heads * vocab)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """States ``[..., k]`` and actions ``[...]`` to ``tau [..., heads]``, within the bound."""
        heads = torch.arange(self.heads, device=actions.device)
        raw = self.body.some(states, actions.unsqueeze(-1) + self.vocab * heads)
        return BOUND * torch.tanh(raw / BOUND)


class PolicyNet(nn.Module):
    """Chances of the next event, none of them below ``explore`` over the number of ids."""

    def __init__(self, vocab: int, context: int, hidden: int, explore: float) -> None:
        super().__init__()
        self.explore = explore
        self.body = ContextNet(vocab, context, hidden, vocab)

    def forward(self, states: Tensor) -> Tensor:
        """``[..., k]`` to the logarithm ``[..., V]`` of the chance of each action."""
        logits = self.body(states)
        possible = torch.arange(logits.shape[-1], device=logits.device) != PAD
        chance = logits.masked_fill(~possible, -torch.inf).softmax(dim=-1)
        floor = self.explore / (logits.shape[-1] - 1)
        mixed: Tensor = ((1 - self.explore) * chance + floor).log()
        return mixed.masked_fill(~possible, -torch.inf)

    def chosen(self, states: Tensor, actions: Tensor) -> Tensor:
        """Logarithm ``[...]`` of the chance of the given actions, which are no padding."""
        log_chances: Tensor = self(states)
        return log_chances.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
