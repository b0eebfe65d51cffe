"""Values by the company they keep: vectors made from counts of what occurs together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detectors.nets.interaction import Interaction
from detectors.nets.mlp import mlp

BUCKETS = 512
"""Width of a row of counts: values beyond it share a column with others."""

LENGTH = 6.0
"""Length of a row. Of much shorter ones a new network makes next to nothing, and has no gradient to
begin with; from much longer ones its first steps lead too far."""


def count_neighbours(rows: Tensor, values: int) -> Tensor:
    """``[V, BUCKETS]``: how often each value stands in an event with the values of each bucket.

    Parameters
    ----------
    rows
        ``[N, C]`` rows of the table of values.
    values
        ``V``.
    """
    counts = torch.zeros(values * BUCKETS, device=rows.device)
    fields = rows.shape[1]
    for one in range(fields):
        for other in range(fields):
            if one != other:
                cell = rows[:, one] * BUCKETS + rows[:, other] % BUCKETS
                counts += torch.bincount(cell, minlength=len(counts))
    return counts.view(values, BUCKETS)


def second_order(neighbours: Tensor, start: Tensor) -> Tensor:
    """Rows ``[V, BUCKETS + 1]`` of where paths of two steps lead, and of how many there are.

    The former are square roots of shares, so that rows have one length and rare neighbours still
    show; the latter is logarithmic, relative to the most. Two values that never meet but know the
    same others get rows that are alike. Rows of padding and of new values, the first two of each
    field, are 0.

    Parameters
    ----------
    start
        ``[C]``: where the values of each field begin.
    """
    bucket = torch.arange(len(neighbours), device=neighbours.device) % BUCKETS
    hop = neighbours.new_zeros((BUCKETS, BUCKETS)).index_add(0, bucket, neighbours)
    paths = neighbours @ (hop / hop.sum(dim=1, keepdim=True).clamp(min=1))
    paths[start] = 0.0
    paths[start + 1] = 0.0
    total = paths.sum(dim=1, keepdim=True)
    much = total.log1p() / total.amax().log1p().clamp(min=1)
    return torch.cat([LENGTH * (paths / total.clamp(min=1)).sqrt(), much], dim=1)


class TopologyInteraction(Interaction):
    """Vectors of values by their topology, and one of the numbers of an event if there are any.

    Parameters
    ----------
    fields, features
        Values and numbers of an event.
    width, hidden
        Width of a vector, and of the hidden layers of all networks.
    """

    def __init__(self, fields: int, features: int, width: int, hidden: int) -> None:
        super().__init__(fields + (features > 0), positive=True)
        self.encoder = mlp([BUCKETS + 1, hidden, width])
        self.decoder = mlp([width, hidden, BUCKETS + 1])
        self.attributes = mlp([features, hidden, width]) if features else None
        self.topology = torch.zeros(0, BUCKETS + 1)
        self.table: Tensor | None = None

    def move_to(self, topology: Tensor) -> None:
        """Look at other rows ``[V, BUCKETS + 1]`` from now on."""
        self.topology, self.table = topology, None

    def settle(self) -> None:
        """Encode all values once and for all; the encoder is done learning."""
        with torch.no_grad():
            self.table = self.encoder(self.topology)

    def vectors(self, rows: Tensor, numbers: Tensor | None) -> Tensor:
        """``[..., C]`` rows and ``[..., F]`` numbers to ``[..., nodes, d]``, the numbers first."""
        z = self._each(self.encoder, rows) if self.table is None else self.table[rows]
        if self.attributes is None or numbers is None:
            return z
        return torch.cat([self.attributes(numbers).unsqueeze(-2), z], dim=-2)

    def rebuilding(self, rows: Tensor, emphasis: float) -> Tensor:
        """Mean squared error ``[..., C]`` of decoding values; entries above 0 count more.

        Parameters
        ----------
        rows
            ``[..., C]``.
        emphasis
            Factor on the errors of those entries.
        """

        def rebuild(topology: Tensor) -> Tensor:
            errors = topology - self.decoder(self.encoder(topology))
            weight = torch.where(topology > 0, emphasis, 1.0)
            mean: Tensor = (errors * weight).square().mean(dim=-1)
            return mean

        return self._each(rebuild, rows)

    def _each(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Apply a function of topologies to those of ``rows``, or to all if these are fewer."""
        if len(self.topology) <= rows.numel():
            return function(self.topology)[rows]
        return function(self.topology[rows])
