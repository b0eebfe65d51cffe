"""Transformations of windows and records, and the networks that tell which one was applied."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from detectors.batch import NEW
from detectors.nets.mlp import mlp
from detectors.nets.tcn import Tcn, blocks_for

SEGMENTS = 4

SEGMENT_ORDERS = (
    (0, 1, 2, 3),
    (0, 2, 1, 3),
    (0, 1, 3, 2),
    (1, 0, 2, 3),
    (3, 1, 2, 0),
    (2, 0, 3, 1),
    (3, 0, 2, 1),
    (1, 3, 0, 2),
)
"""Ways to put a window together again that was cut in four; the first is to leave it as it is."""


class TimeTransforms(nn.Module):
    """Every combination of reversal, exchanged halves of the columns, and an order of segments.

    Parameters
    ----------
    columns
        ``E``; a single column has no halves to exchange.
    orders
        How many of ``SEGMENT_ORDERS``.
    """

    reverse: Tensor
    column: Tensor
    rank: Tensor

    def __init__(self, columns: int, orders: int) -> None:
        super().__init__()
        shifts = (0, columns // 2) if columns > 1 else (0,)
        kept = SEGMENT_ORDERS[:orders]
        found = list(itertools.product((False, True), shifts, kept))
        place = torch.arange(columns)
        self.register_buffer("reverse", torch.tensor([r for r, _, _ in found]))
        self.register_buffer("column", torch.stack([place.roll(shift) for _, shift, _ in found]))
        self.register_buffer("rank", torch.tensor([order for _, _, order in found]).argsort(dim=1))

    def exchange(self, other: Tensor) -> None:
        """Let columns take the order ``other [E]`` where they have exchanged halves so far."""
        moved = (self.column != torch.arange(len(other), device=other.device)).any(dim=1)
        self.column[moved] = other

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, E]`` to ``[B, n, T, E]``; padding stays on the right."""
        windows, length = mask.shape
        place = torch.arange(length, device=mask.device)
        lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
        segment = (SEGMENTS * place // lengths).clamp(max=SEGMENTS - 1)
        key = self.rank[:, segment] * length + place
        key = torch.where(self.reverse[:, None, None], -key, key)
        key = key.masked_fill(~mask, SEGMENTS * length)
        order = key.argsort(dim=-1, stable=True).transpose(0, 1).unsqueeze(-1)
        # one index at a time: on a CPU their gradients are several times faster
        columns = steps.index_select(2, self.column.flatten())
        shown = columns.view(windows, length, *self.column.shape).transpose(1, 2)
        return shown.gather(2, order.expand_as(shown))


def exchanged_ids(counts: Tensor) -> Tensor:
    """Order ``[V - 1]`` of the one-hot columns of a field in which each id stands for another.

    By their counts ``[V]`` each known id takes the place of the next more frequent one, the most
    frequent that of the rarest; padding, new ids and those without an example stay.
    """
    known = counts.nonzero().squeeze(1)
    known = known[known > NEW]
    ordered = known[counts[known].argsort(stable=True)]
    place = torch.arange(1, len(counts), device=counts.device)
    place[ordered - 1] = ordered.roll(1)
    return place - 1


class TimeClassifier(nn.Module):
    """Tells by causal convolutions which transformation a window went through.

    Parameters
    ----------
    columns, steps
        Numbers per step, and steps of the windows at fit.
    hidden
        Channels of the convolutions.
    """

    def __init__(self, columns: int, steps: int, hidden: int, orders: int) -> None:
        super().__init__()
        self.transforms = TimeTransforms(columns, orders)
        self.body = Tcn(columns, hidden, blocks_for(steps))
        self.head = nn.Linear(hidden, len(self.transforms.reverse))

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, columns]`` and ``mask [B, T]`` to logits ``[B, n, n]`` of all its versions."""
        shown = self.transforms(steps, mask).flatten(0, 1)
        real = mask.repeat_interleave(len(self.transforms.reverse), dim=0)
        hidden = self.body(shown, real)
        mean = hidden.sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
        logits: Tensor = self.head(mean)
        return logits.view(len(mask), -1, logits.shape[1])


class RecordClassifier(nn.Module):
    """Tells which of ``n`` fixed random affine maps a record went through.

    Parameters
    ----------
    columns
        Width of a record; maps are square.
    maps
        ``n``.
    """

    turn: Tensor
    shift: Tensor

    def __init__(self, columns: int, hidden: int, maps: int) -> None:
        super().__init__()
        turns = [nn.init.orthogonal_(torch.empty(columns, columns)) for _ in range(maps)]
        self.register_buffer("turn", torch.stack(turns))
        self.register_buffer("shift", torch.randn(maps, columns))
        self.body = mlp([columns, 2 * hidden, hidden, maps], activation=nn.LeakyReLU)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, 1, columns]`` to logits ``[B, n, n]`` of all its versions."""
        shown = torch.einsum("bd,nde->bne", steps[:, 0], self.turn) + self.shift
        logits: Tensor = self.body(shown)
        return logits
