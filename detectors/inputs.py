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
from detectors.device import beside
from detectors.nets.embedding import embedding_width
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

MOST = 10.0
"""Spreads beyond which a surprisal is cut off."""

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
    Detectors for which the order of ids matters take random codes instead of the surprisal.

    Parameters
    ----------
    features
        ``F``.
    tables
        One ``[V, width]`` float32 table per category field.
    steps
        ``T`` of the fit, to which flat rows are padded.
    """

    def __init__(self, features: int, tables: list[Tensor], steps: int) -> None:
        self.features = features
        self.tables = tables
        self.steps = steps
        self._widths = [features, *(table.shape[1] for table in tables)]

    @classmethod
    def fit(cls, data: WindowBatch, *, codes: bool = False) -> Self:
        """Learn the tables from the real steps of ``data``.

        Parameters
        ----------
        codes
            Whether fields of more than ``ONE_HOT_MAX`` ids become random codes that tell them
            apart, as the global generator draws them, instead of one column of surprisal.
        """
        tables = []
        for field, vocab in enumerate(data.vocab):
            counts = _counts(data.cat[:, :, field][data.mask], vocab)
            if vocab <= ONE_HOT_MAX:
                tables.append(_one_hot(counts > 0))
            else:
                tables.append(_random_codes(counts > 0) if codes else _surprisal(counts))
        return cls(data.features, tables, data.steps)

    @property
    def columns(self) -> int:
        """``E``."""
        return sum(self._widths)

    @property
    def surprisals(self) -> list[bool]:
        """Which of the ``E`` columns say how rare a value is."""
        widths = [table.shape[1] for table in self.tables]
        return [False] * self.features + [width == 1 for width in widths for _ in range(width)]

    @property
    def width(self) -> int:
        """``D = steps * E``, of flat rows."""
        return self.steps * self.columns

    def __call__(self, data: WindowBatch) -> Tensor:
        """Return ``[B, T, E]`` float32, zero under the mask; without categories ``data.num``."""
        if not self.tables:
            return data.num
        looked_up = [table[data.cat[:, :, i]] for i, table in enumerate(self.tables)]
        return torch.cat([data.num, *looked_up], dim=-1)

    def flatten(self, data: WindowBatch) -> Tensor:
        """Return ``[B, D]``: windows padded on the right to ``steps``, then flattened.

        Raises
        ------
        ShapeError
            If the windows have more than ``steps`` steps.
        """
        if data.steps > self.steps:
            msg = f"windows: {data.steps} steps, at most {self.steps} fit; shorten the windows"
            raise ShapeError(msg)
        dense = self(data)
        if data.steps < self.steps:
            dense = torch.nn.functional.pad(dense, (0, 0, 0, self.steps - data.steps))
        return dense.reshape(len(data), self.width)

    def unflatten(self, rows: Tensor, data: WindowBatch) -> Tensor:
        """Take rows ``[B, D]`` apart again, into the ``[B, T, E]`` of ``data``."""
        return rows.view(len(data), -1, self.columns)[:, : data.steps]

    def full(self, data: WindowBatch) -> bool:
        """Whether no entry of :meth:`flatten` is padding, as far as is known without asking."""
        return data.steps == self.steps and data.known_full

    def real(self, data: WindowBatch) -> Tensor:
        """Return ``[B, D]``: which entries of :meth:`flatten` are no padding."""
        mask = torch.nn.functional.pad(data.mask, (0, self.steps - data.steps))
        return mask.repeat_interleave(self.columns, dim=1)

    def rows(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Flatten to rows ``[B, D]`` like :meth:`flatten`; also tell which entries are real."""
        return self.flatten(data), self.real(data)

    def numbers(self, rows: Tensor, data: WindowBatch) -> Tensor:
        """Take the numbers ``[B, T, F]`` of the windows out of flat rows ``[B, steps * E]``."""
        return self.unflatten(rows, data)[:, :, : self.features]

    def attribute(self, share: Tensor) -> Tensor:
        """Sum the shares ``[B, T, E]`` of columns to shares ``[B, T, F + C]`` of fields."""
        if not self.tables:
            return share
        numbers, *fields = torch.split(share, self._widths, dim=-1)
        return torch.cat([numbers, *(part.sum(dim=-1, keepdim=True) for part in fields)], dim=-1)

    def explained(self, data: WindowBatch, score: Tensor, share: Tensor) -> Scores:
        """Spread scores ``[B]`` over steps and fields by shares ``[B, D]`` of columns.

        Negative shares of a field count as none; what stands under the mask gets none.
        """
        share = self.unflatten(share, data)
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
        tables = [state[f"{prefix}table.{i}"] for i, _ in enumerate(shape.vocab)]
        return cls(shape.features, tables, shape.steps)


def _counts(ids: Tensor, vocab: int) -> Tensor:
    """``[V]``: how often each known id is among ``[N]`` of the fit."""
    counts = torch.bincount(ids, minlength=vocab).double()
    counts[PAD] = counts[NEW] = 0
    return counts


def _one_hot(seen: Tensor) -> Tensor:
    """``[V, V - 1]``; the row of an unseen id is that of a new one."""
    table = torch.eye(len(seen), device=seen.device)[:, 1:] * FLIP
    table[~seen] = 0.0
    table[~seen, NEW - 1] = NEW_FLIP
    table[PAD] = 0.0
    return table


def _random_codes(seen: Tensor) -> Tensor:
    """``[V, width]``, as far from each other and from that of a new id as one-hot columns are."""
    width = embedding_width(len(seen))
    drawn = torch.nn.functional.normalize(torch.randn(len(seen), width))
    table = beside(drawn, seen) * FLIP
    table[~seen] = table[NEW] / FLIP * NEW_FLIP
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
    table = ((surprisal - mean) / spread).clamp(-MOST, MOST).float()
    table[PAD] = 0.0
    return table.unsqueeze(-1)
