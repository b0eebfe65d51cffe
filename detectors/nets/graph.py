"""Windows of events as graphs: the entities that the events name, joined where they meet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.batch import NEW, WindowBatch
from detectors.device import beside


@dataclass(frozen=True)
class Graphs:
    """One graph a window, over ``N = T * C`` places for vertices.

    The entity that field ``c`` of step ``t`` names stands at the place ``t * C + c`` where the
    window names it first; the places of later mentions stay empty. New entities, which share an id,
    stand wherever they are named.

    Attributes
    ----------
    place
        ``[B, T, C]``: where the entity of each mention stands.
    real
        ``[B, N]``: which places hold a vertex.
    adjacency
        ``[B, N, N]`` in 0 .. 1, symmetric: how often two entities meet, on a logarithmic scale,
        as a share of the most frequent meeting of the window.
    features
        ``[B, N, F + 1 + C]``: means of the numbers of a vertex's events, logarithm of how many
        those are, and which field it belongs to.
    """

    place: Tensor
    real: Tensor
    adjacency: Tensor
    features: Tensor

    @classmethod
    def of(cls, data: WindowBatch) -> Graphs:
        """Build the graphs of windows of events with at least two category fields."""
        size, steps, fields = data.cat.shape
        n = steps * fields
        mentioned = data.mask.repeat_interleave(fields, dim=1)
        field = torch.arange(fields, device=data.cat.device).repeat(steps)
        # ids of different fields are different entities
        entity = data.cat.reshape(size, n) * fields + field
        here = torch.arange(n, device=data.cat.device)
        known = (data.cat != NEW).reshape(size, n)
        same = (entity.unsqueeze(2) == entity.unsqueeze(1)) & known.unsqueeze(1)
        same = (same | (here.unsqueeze(1) == here)) & mentioned.unsqueeze(1)
        place = same.to(torch.uint8).argmax(dim=2)
        real = (place == here) & mentioned
        weight = mentioned.to(data.num.dtype)

        left, right = (beside(ends, place) for ends in _meetings(steps, fields))
        meets = torch.zeros(size, n * n, dtype=weight.dtype, device=place.device)
        meets.scatter_add_(1, place[:, left] * n + place[:, right], weight[:, left])
        meets = torch.log1p(meets)
        adjacency = meets / meets.amax(dim=1, keepdim=True).clamp(min=1e-6)

        told = data.num.repeat_interleave(fields, dim=1) * weight.unsqueeze(2)
        index = place.unsqueeze(2).expand(-1, -1, data.features)
        sums = torch.zeros_like(told).scatter_add_(1, index, told)
        count = torch.zeros_like(weight).scatter_add_(1, place, weight).unsqueeze(2)
        kind = nn.functional.one_hot(field, fields).expand(size, -1, -1) * real.unsqueeze(2)
        features = torch.cat([sums / count.clamp(min=1), torch.log1p(count), kind], dim=2)
        return cls(place.view(size, steps, fields), real, adjacency.view(size, n, n), features)


def _meetings(steps: int, fields: int) -> tuple[Tensor, Tensor]:
    """Pairs of places of one step, in both directions."""
    left, right = torch.nonzero(~torch.eye(fields, dtype=torch.bool), as_tuple=True)
    start = torch.arange(steps).unsqueeze(1) * fields
    return (start + left).flatten(), (start + right).flatten()


def is_new(data: WindowBatch) -> Tensor:
    """``[B, T, C]``: which mentions are of entities that the fit has not seen."""
    return (data.cat == NEW) & data.mask.unsqueeze(2)


class GraphAutoencoder(nn.Module):
    """Graph convolutions to a code for each vertex, from which edges and features are told again.

    ``H = relu(S X W1)``, ``Z = S H W2``, ``Ahat = sigmoid(Z Z' + c)``, ``Xhat = S Z W3`` with
    ``S = D^-1/2 (A + I) D^-1/2`` and the degrees ``D`` of ``A + I``.

    Parameters
    ----------
    inputs, outputs
        Features of a vertex, and how many of them are told again.
    hidden, code
        Widths.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, code: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, code)
        self.tell = nn.Linear(code, outputs)
        self.constant = nn.Parameter(torch.zeros(()))

    def forward(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """Return told edges ``[B, N, N]`` and features ``[B, N, outputs]``."""
        smooth = smoothing(graphs)
        hidden = torch.relu(smooth @ self.first(graphs.features))
        code = smooth @ self.second(hidden)
        edges = torch.sigmoid(code @ code.transpose(1, 2) + self.constant)
        return edges, smooth @ self.tell(code)


def smoothing(graphs: Graphs) -> Tensor:
    """``S = D^-1/2 (A + I) D^-1/2``, ``[B, N, N]``; zero at empty places."""
    loops = graphs.adjacency + torch.diag_embed(graphs.real.to(graphs.adjacency.dtype))
    scale = loops.sum(dim=2).clamp(min=1e-6).rsqrt() * graphs.real
    return scale.unsqueeze(2) * loops * scale.unsqueeze(1)
