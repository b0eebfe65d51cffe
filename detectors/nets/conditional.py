"""Each field of a record from the others: one network in place of one per field."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.nets.embedding import SequenceInput
from detectors.nets.mlp import mlp

LOG_VARIANCE = (-4.0, 4.0)
"""Bounds of what is predicted: beyond them a density of nearly constant numbers has no limit."""


class Conditional(NamedTuple):
    """What the other fields say of each field.

    Attributes
    ----------
    mean
        ``[..., F]`` of the numbers.
    surprisal
        ``[..., F + C]`` nats of the true values.
    """

    mean: Tensor
    surprisal: Tensor


class MaskedFieldNet(nn.Module):
    """Distribution of the hidden fields of a record, given those that are shown.

    A number is expected as a Gaussian, a category as a softmax.

    Parameters
    ----------
    features, vocab
        Numbers of a record, ids of each category field.
    hidden
        Widths of the layers.
    """

    owner: Tensor

    def __init__(self, features: int, vocab: tuple[int, ...], hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.features, self.fields = features, features + len(vocab)
        self.input = SequenceInput(features, vocab)
        widths = torch.tensor([1] * features + self.input.widths[1:])
        owner = torch.arange(self.fields).repeat_interleave(widths)
        self.register_buffer("owner", owner, persistent=False)
        self.body = mlp([len(owner) + self.fields, *hidden]).append(nn.ReLU())
        self.widths = [features, features, *vocab]
        self.head = nn.Linear(hidden[-1], sum(self.widths))

    def together(self, data: WindowBatch, hide: Tensor) -> Tensor:
        """Surprisals ``[B, T, F + C]`` with the fields ``hide [B, T, F + C]`` hidden at once.

        They mean something for the hidden fields only.
        """
        shown = (~hide).float()
        code = self.body(torch.cat([self.input(data) * shown[..., self.owner], shown], dim=-1))
        return self._conditional(data, *self.head(code).split(self.widths, dim=-1)).surprisal

    def one_by_one(self, data: WindowBatch) -> Conditional:
        """Say each field with that field alone hidden, in ``F + C`` passes side by side."""
        # the first layer reads all fields at once; of that is taken what the hidden one adds to it
        first, bias, *_ = self.body.parameters()
        columns, numbers = self.input(data), self.features
        weight, shown = torch.split(first.T, [len(self.owner), self.fields])
        whole = nn.functional.linear(columns, weight.T, bias + shown.sum(dim=0))
        hidden = whole.unsqueeze(2) - shown
        number, *ids = torch.split(columns, self.input.widths, dim=-1)
        by_number, *by_id = torch.split(weight, self.input.widths)
        hidden[:, :, :numbers].addcmul_(number.unsqueeze(-1), by_number, value=-1)
        for field, (embedded, by) in enumerate(zip(ids, by_id, strict=True), start=numbers):
            hidden[:, :, field] -= embedded @ by
        code = self.body[2:](hidden.relu_().flatten(0, 2)).unflatten(0, hidden.shape[:3])
        # of each pass only the field that it hides is asked for
        said, left = code[:, :, :numbers], code[:, :, numbers:].unbind(dim=2)
        weights = torch.split(self.head.weight, self.widths)
        biases = torch.split(self.head.bias, self.widths)
        gaussians = [(said * weights[i]).sum(dim=-1) + biases[i] for i in (0, 1)]
        logits = map(nn.functional.linear, left, weights[2:], biases[2:])
        return self._conditional(data, *gaussians, *logits)

    def _conditional(
        self, data: WindowBatch, mean: Tensor, log_variance: Tensor, *logits: Tensor
    ) -> Conditional:
        log_variance = log_variance.clamp(*LOG_VARIANCE)
        gap = (data.num - mean).square()
        parts = [0.5 * (gap * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi))]
        for field, logit in enumerate(logits):
            true = data.cat[:, :, field : field + 1]
            parts.append(-logit.log_softmax(dim=-1).gather(-1, true))
        return Conditional(mean, torch.cat(parts, dim=-1))
