"""Dense columns out of mixed windows: numbers as they are, each category as a few numbers.

Every detector that thinks in distances, residuals or matrices reads windows through
:class:`RecordInput`, and gives its attribution back to the fields through it.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from detectors.batch import NEW, PAD, WindowBatch
from detectors.detector import Shape
from detectors.scaling import CLIP
from detectors.scores import Scores
from schemas.errors import ShapeError

ONE_HOT_MAX = 64
"""Largest vocabulary that gets a column per id; beyond it the columns would outweigh the rest."""

FLIP = math.sqrt(0.5)
"""Height of a one-hot column: going from one id to another moves two of them, so that the squared
distance is 1, the weight of one robust sigma in a number."""

NEW_FLIP = 3.0
"""Height of the column of a value that the fit has not seen: three sigma, well above any flip."""

LEAST_NATS = 1.0
"""Surprisals are divided by their spread, but by no less than this: among equally frequent ids
their spread is sampling noise, and dividing by it would make that noise look like a signal."""

LEAST_SPAN = 1e-3
"""Range in robust sigmas below which a column counts as constant; dividing by rounding errors would
blow up whatever comes later."""


class RecordInput:
    """Prepared windows ``num [B, T, F]``, ``cat [B, T, C]`` as one tensor ``[B, T, E]``.

    A category field is looked up in a table learned at fit. Up to ``ONE_HOT_MAX`` ids it has a
    column for each id but padding; above, a single column with the centred and scaled surprisal
    ``-log p(id)``. Ids without an example in the fit count as new: as a one-hot they share the
    column of id 1; as a surprisal they get ``log(N + 1) + log V``, more than any id of the ``N``
    steps seen, because "new" stands for many values rather than one. Padding is 0 throughout.

    Parameters
    ----------
    features
        ``F``.
    tables
        One ``[V, width]`` float32 table per category field.
    """

    def __init__(self, features: int, tables: list[Tensor]) -> None:
        self.features = features
        self.tables = tables
        self._widths = [features, *(table.shape[1] for table in tables)]

    @classmethod
    def fit(cls, data: WindowBatch) -> Self:
        """Learn the tables from the real steps of ``data``."""
        tables = [
            _table(data.cat[:, :, field][data.mask], vocab)
            for field, vocab in enumerate(data.vocab)
        ]
        return cls(data.features, tables)

    @property
    def columns(self) -> int:
        """``E``."""
        return sum(self._widths)

    @property
    def surprisals(self) -> list[bool]:
        """Which of the ``E`` columns say how rare a value is."""
        widths = [table.shape[1] for table in self.tables]
        return [False] * self.features + [width == 1 for width in widths for _ in range(width)]

    def __call__(self, data: WindowBatch) -> Tensor:
        """Return ``[B, T, E]`` float32, zero under the mask; without categories ``data.num``."""
        if not self.tables:
            return data.num
        looked_up = [table[data.cat[:, :, i]] for i, table in enumerate(self.tables)]
        return torch.cat([data.num, *looked_up], dim=-1)

    def flatten(self, data: WindowBatch, steps: int) -> Tensor:
        """Return ``[B, steps * E]``: windows padded on the right to ``steps``, then flattened.

        Raises
        ------
        ShapeError
            If the windows have more than ``steps`` steps.
        """
        if data.steps > steps:
            msg = f"windows: {data.steps} steps, at most {steps} fit; shorten the windows"
            raise ShapeError(msg)
        dense = self(data)
        if data.steps < steps:
            dense = torch.nn.functional.pad(dense, (0, 0, 0, steps - data.steps))
        return dense.reshape(len(data), steps * self.columns)

    def real(self, data: WindowBatch, steps: int) -> Tensor:
        """Return ``[B, steps * E]``: which entries of :meth:`flatten` are no padding."""
        mask = torch.nn.functional.pad(data.mask, (0, steps - data.steps))
        return mask.repeat_interleave(self.columns, dim=1)

    def rows(self, data: WindowBatch, steps: int) -> tuple[Tensor, Tensor]:
        """Flatten to rows ``[B, D]`` like :meth:`flatten`; also tell which entries are real."""
        return self.flatten(data, steps), self.real(data, steps)

    def numbers(self, rows: Tensor, data: WindowBatch) -> Tensor:
        """Take the numbers ``[B, T, F]`` of the windows out of flat rows ``[B, steps * E]``."""
        steps = rows.view(len(data), -1, self.columns)[:, : data.steps]
        return steps[:, :, : self.features]

    def attribute(self, share: Tensor) -> Tensor:
        """Sum the shares ``[B, T, E]`` of columns to shares ``[B, T, F + C]`` of fields."""
        if not self.tables:
            return share
        numbers, *fields = torch.split(share, self._widths, dim=-1)
        return torch.cat([numbers, *(part.sum(dim=-1, keepdim=True) for part in fields)], dim=-1)

    def explained(self, data: WindowBatch, score: Tensor, share: Tensor) -> Scores:
        """Spread scores ``[B]`` over steps and fields by shares ``[B, steps * E]`` of columns.

        Negative shares of a field count as none; what stands under the mask gets none.
        """
        share = share.view(len(data), -1, self.columns)[:, : data.steps]
        feature = self.attribute(share.masked_fill(~data.mask.unsqueeze(-1), 0.0)).clamp(min=0)
        total = feature.sum(dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
        feature = feature / total[:, None, None] * score[:, None, None]
        return Scores(score, feature.sum(dim=2), feature)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything learned, as tensors whose names start with ``prefix``."""
        return {f"{prefix}table.{i}": table for i, table in enumerate(self.tables)}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str, shape: Shape) -> Self:
        """Rebuild what :meth:`state` described; ``KeyError`` if a table is missing."""
        return cls(shape.features, [state[f"{prefix}table.{i}"] for i, _ in enumerate(shape.vocab)])


def _table(ids: Tensor, vocab: int) -> Tensor:
    """Lookup table of one field from its ids ``[N]`` at fit."""
    counts = torch.bincount(ids, minlength=vocab).double()
    counts[PAD] = counts[NEW] = 0
    if vocab <= ONE_HOT_MAX:
        return _one_hot(counts > 0)
    return _surprisal(counts)


def _one_hot(seen: Tensor) -> Tensor:
    """``[V, V - 1]``; the row of an unseen id is that of a new one."""
    table = torch.eye(len(seen), device=seen.device)[:, 1:] * FLIP
    table[~seen] = 0.0
    table[~seen, NEW - 1] = NEW_FLIP
    table[PAD] = 0.0
    return table


def _surprisal(counts: Tensor) -> Tensor:
    """``[V, 1]``, centred and scaled by the mean and spread over the steps of the fit."""
    total = counts.sum()
    seen = counts > 0
    surprisal = torch.where(seen, torch.log(total + 1) - torch.log(counts.clamp(min=1)), 0.0)
    surprisal[~seen] = torch.log(total + 1) + math.log(len(counts))
    weight = counts / total.clamp(min=1)
    mean = (weight * surprisal).sum()
    spread = (weight * (surprisal - mean).square()).sum().sqrt().clamp(min=LEAST_NATS)
    table = ((surprisal - mean) / spread).clamp(-CLIP, CLIP).float()
    table[PAD] = 0.0
    return table.unsqueeze(-1)
