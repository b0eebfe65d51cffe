"""Events of several categories: one embedding per value, one weight per pair of fields."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectors.batch import NEW, PAD

INITIAL = 0.1
"""Spread of the embeddings before training: every pair of values starts out indifferent."""


class ValueTable:
    """Values of all fields in one table: id ``i`` of field ``c`` stands in row ``start[c] + i``.

    Ids without an example so far share the row of new values.

    Parameters
    ----------
    vocab
        Number of ids of each field.
    counts
        ``[V]``: how often each row has occurred.
    """

    def __init__(self, vocab: Sequence[int], counts: Tensor) -> None:
        self.start = torch.tensor([0, *vocab[:-1]], device=counts.device).cumsum(0)
        self.known = counts > 0
        for special in (PAD, NEW):
            self.known[self.start + special] = True

    def rows(self, cat: Tensor) -> Tensor:
        """``[..., C]`` ids to rows."""
        rows = cat + self.start
        return torch.where(self.known[rows], rows, self.start + NEW)

    def is_new(self, rows: Tensor) -> Tensor:
        """``[..., C]``: which of the rows stand for new values."""
        return rows == self.start + NEW

    def new_row(self, rows: Tensor) -> Tensor:
        """Row of new values of the field that each of ``rows [n]`` belongs to."""
        return self.start[torch.searchsorted(self.start, rows, right=True) - 1] + NEW

    def start_as_new(self, table: Tensor, fresh: Tensor) -> None:
        """Let rows that counted as new until now start in ``table [V, d]`` as new values do."""
        with torch.no_grad():
            table[fresh] = table[self.new_row(fresh)]


def count_values(cat: Tensor, vocab: Sequence[int]) -> Tensor:
    """``[V]`` float64: how often each id of each field stands in ``cat [N, C]``."""
    fields = [torch.bincount(cat[:, c], minlength=size) for c, size in enumerate(vocab)]
    return torch.cat(fields).double()


class Interaction(nn.Module):
    """``tau(x) = sum over pairs i < j of w_ij z_i . z_j``, large for what goes together.

    Subclasses say what the vectors ``z`` of an event are.

    Parameters
    ----------
    nodes
        Vectors of an event, one for each field and perhaps others before them.
    positive
        Whether the weights are kept above 0, as the softplus of what is learned.
    """

    pairs: Tensor

    def __init__(self, nodes: int, *, positive: bool) -> None:
        super().__init__()
        self.register_buffer("pairs", torch.triu_indices(nodes, nodes, 1), persistent=False)
        self.nodes, self.positive = nodes, positive
        one = math.log(math.expm1(1.0)) if positive else 1.0  # the weights start at 1
        self.raw_weight = nn.Parameter(torch.full((self.pairs.shape[1],), one))
        self.constant = nn.Parameter(torch.zeros(()))

    @property
    def weight(self) -> Tensor:
        """``[P]`` weights of the pairs."""
        return nn.functional.softplus(self.raw_weight) if self.positive else self.raw_weight

    def vectors(self, rows: Tensor, numbers: Tensor | None) -> Tensor:
        """``[..., C]`` rows and ``[..., F]`` numbers of events to ``z [..., nodes, d]``."""
        raise NotImplementedError

    def terms(self, rows: Tensor, numbers: Tensor | None = None) -> Tensor:
        """``[..., C]`` rows and ``[..., F]`` numbers to terms ``w_ij z_i . z_j``, ``[..., P]``."""
        z = self.vectors(rows, numbers)
        products = z @ z.transpose(-1, -2)
        terms: Tensor = products[..., self.pairs[0], self.pairs[1]] * self.weight
        return terms

    def forward(self, rows: Tensor, numbers: Tensor | None = None) -> Tensor:
        """``[..., C]`` rows and ``[..., F]`` numbers to ``tau(x) + c``, ``[...]``."""
        total: Tensor = self.terms(rows, numbers).sum(dim=-1) + self.constant
        return total

    def by_node(self, pairs: Tensor) -> Tensor:
        """Share ``[..., P]`` of pairs to shares ``[..., nodes]``: half to each of the two."""
        return halved(pairs, self.pairs, self.nodes)


def halved(shares: Tensor, pairs: Tensor, fields: int) -> Tensor:
    """Shares ``[..., P]`` of the ``pairs [2, P]`` to shares ``[..., C]``: half to each of two."""
    found = shares.new_zeros((*shares.shape[:-1], fields))
    for side in pairs:
        found = found.index_add(-1, side, 0.5 * shares)
    return found


class PairInteraction(Interaction):
    """One embedding per value, whatever the numbers.

    Parameters
    ----------
    rows, fields, width
        Values of all fields together, number of fields ``C``, and width of an embedding.
    positive
        Whether the weights of pairs are kept above 0.
    """

    def __init__(self, rows: int, fields: int, width: int, *, positive: bool) -> None:
        super().__init__(fields, positive=positive)
        self.embedding = nn.Embedding(rows, width)
        nn.init.normal_(self.embedding.weight, std=INITIAL)

    def vectors(self, rows: Tensor, numbers: Tensor | None) -> Tensor:
        """``[..., C]`` rows to embeddings ``[..., C, d]``."""
        z: Tensor = self.embedding(rows)
        return z
