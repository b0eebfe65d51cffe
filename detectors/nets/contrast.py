"""Which part of a record belongs to which rest: embeddings of both that meet where they match."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.nets.stacked import StackedLinear


class Embedding(nn.Module):
    """Two layers for each of ``M`` networks, and vectors of length 1."""

    def __init__(self, members: int, inputs: int, hidden: int, units: int) -> None:
        super().__init__()
        self.first = StackedLinear(members, inputs, hidden)
        self.second = StackedLinear(members, hidden, units)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[M, B, m, inputs]`` to ``[M, B, m, units]``."""
        first: Tensor = self.first(inputs.flatten(1, 2))
        return self.after_first(first.view(*inputs.shape[:3], -1))

    def after_first(self, first: Tensor) -> Tensor:
        """Take ``[M, B, m, hidden]`` of the first layer to ``[M, B, m, units]``."""
        hidden = nn.functional.leaky_relu(first.flatten(1, 2), 0.2)
        vectors = nn.functional.normalize(self.second(hidden), dim=-1)
        return vectors.view(*first.shape[:3], -1)


class PartsContrast(nn.Module):
    """Tells each run of ``width`` columns from the other runs by the columns left over.

    ``M`` networks each read the columns in an order of their own, drawn once.

    Parameters
    ----------
    members, columns, width
        ``M``, columns ``D`` of a record, and of a part.
    hidden, units
        Widths of the networks and of their embeddings.
    temperature
        Divides the cosines; the lower, the harder the contrast.
    """

    order: Tensor

    def __init__(
        self, members: int, columns: int, width: int, hidden: int, units: int, temperature: float
    ) -> None:
        super().__init__()
        self.width, self.temperature = width, temperature
        self.part_net = Embedding(members, width, hidden, units)
        self.rest_net = Embedding(members, columns - width, hidden, units)
        order = torch.stack([torch.randperm(columns) for _ in range(members)])
        self.register_buffer("order", order)

    def forward(self, rows: Tensor) -> Tensor:
        """Contrastive loss ``[M, B, m]`` of each part of records ``[B, D]``, at least 0."""
        ordered = rows[:, self.order].transpose(0, 1)
        parts = self.part_net(ordered.unfold(2, self.width, 1))
        rests = self.rest_net.after_first(self._read_rests(ordered))
        cosines: Tensor = rests @ parts.transpose(-1, -2)
        return -(cosines / self.temperature).log_softmax(dim=-1).diagonal(dim1=-2, dim2=-1)

    def _read_rests(self, ordered: Tensor) -> Tensor:
        """Apply the first layer to what each part of ``[M, B, D]`` leaves, ``[M, B, m, hidden]``.

        From one part to the next, a single place of the rest is taken by another column.
        """
        layer: StackedLinear = self.rest_net.first
        left, right = ordered[:, :, : -self.width], ordered[:, :, self.width :]
        changes = (left - right).unsqueeze(-1) * layer.weight.unsqueeze(1)
        return torch.cat([layer(right).unsqueeze(2), changes], dim=2).cumsum(dim=2)
