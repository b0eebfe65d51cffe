"""Windows as sequences of vectors: scaled numbers beside an embedding of each category."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detectors.batch import NEW, PAD, WindowBatch
from detectors.device import beside

NEW_SHARE = 0.01
"""Share of ids that training shows as new, so that the row of id 1 is not left as it was drawn."""


def embedding_width(vocab: int) -> int:
    """Width of the embedding of ``vocab`` ids: grows a little faster than the square root."""
    return min(50, math.ceil(1.6 * math.pow(vocab, 0.56)))


class SequenceInput(nn.Module):
    """``[B, T, width]``: the numbers of a step, then an embedding per category field.

    Parameters
    ----------
    features
        ``F``.
    vocab
        Number of ids of each field; id 0 is embedded as zeros and never learned.
    """

    def __init__(self, features: int, vocab: Sequence[int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding(size, embedding_width(size), padding_idx=PAD) for size in vocab
        )
        self.widths = [features, *(embedding_width(size) for size in vocab)]

    @property
    def width(self) -> int:
        """Numbers per step."""
        return sum(self.widths)

    def forward(self, data: WindowBatch) -> Tensor:
        """Return ``[B, T, width]``; without categories ``data.num`` itself."""
        if not self.tables:
            return data.num
        embedded = [table(data.cat[:, :, i]) for i, table in enumerate(self.tables)]
        return torch.cat([data.num, *embedded], dim=-1)

    def push_out_new(self, reach: float) -> None:
        """Make the embedding of new values ``reach`` times as long as a typical one.

        For networks that are not trained to tell what is new: a longer input takes whatever they
        compute further away from the usual.
        """
        with torch.no_grad():
            for weight in self.parameters():
                typical = weight[NEW + 1 :].norm(dim=1).mean()
                weight[NEW] *= reach * typical / weight[NEW].norm().clamp(min=1e-6)

    def attribute(self, share: Tensor) -> Tensor:
        """Sum the shares ``[B, T, width]`` of inputs to shares ``[B, T, F + C]`` of fields."""
        numbers, *fields = torch.split(share, self.widths, dim=-1)
        return torch.cat([numbers, *(part.sum(dim=-1, keepdim=True) for part in fields)], dim=-1)


def show_new(data: WindowBatch, generator: torch.Generator) -> WindowBatch:
    """Replace a random share of the real ids by the id of new values, as input and as target.

    Parameters
    ----------
    generator
        Source of randomness on the CPU, so that every device draws the same.
    """
    if data.fields == 0:
        return data
    draws = beside(torch.rand(data.cat.shape, generator=generator), data.cat)
    hit = (draws < NEW_SHARE) & (data.cat != PAD)
    return replace(data, cat=data.cat.masked_fill(hit, NEW))
