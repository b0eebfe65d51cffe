"""Flat rows for networks whose output is bounded: nearly all normal entries lie in -1 .. 1."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.detector import Shape
from detectors.inputs import RecordInput
from detectors.scores import Scores

TAIL = 1e-3
"""Share of the entries of a column left beyond each end of the box: single extreme values would
otherwise squeeze all others together."""

LEAST_HALF = 1e-3
"""Half a range in robust sigmas below which a column counts as constant."""


class BoxedInput:
    """Windows as rows ``[B, D]`` of ``D = T * E`` columns, and which of their entries are real.

    Each column of a step is shifted and scaled so that its ``TAIL`` quantiles lie at -1 and 1. It
    is not clipped: a network may look at a clipped row, while errors are taken against the row as
    it came, or extreme entries would vanish at the edge of the box.

    Parameters
    ----------
    inner
        From windows to columns.
    centre, half
        ``[E]``: middle and half the width of the box.
    """

    def __init__(self, inner: RecordInput, centre: Tensor, half: Tensor) -> None:
        self.inner, self.centre, self.half = inner, centre, half
        self._shift, self._factor = -centre / half, 1 / half

    @classmethod
    def fit(cls, data: WindowBatch) -> Self:
        """Learn tables and box from the real steps of ``data``."""
        inner = RecordInput.fit(data)
        values = inner(data)[data.mask]
        if len(values) == 0:
            zero = data.num.new_zeros(inner.columns)
            return cls(inner, zero, torch.ones_like(zero))
        out = math.floor(TAIL * len(values))
        low = values.kthvalue(1 + out, dim=0).values
        high = values.kthvalue(len(values) - out, dim=0).values
        half = (high - low) / 2
        half = torch.where(half < LEAST_HALF, 1.0, half)
        return cls(inner, (low + high) / 2, half)

    @property
    def width(self) -> int:
        """``D``."""
        return self.inner.width

    def __call__(self, data: WindowBatch, *, consume: bool = False) -> tuple[Tensor, Tensor]:
        """Rows and real entries ``[B, D]``, the latter as 1 or 0; rows are 0 under the mask.

        With ``consume``, rows may take the place of the numbers of ``data``: on a CPU, fresh memory
        costs more than the arithmetic.
        """
        rows = self.inner.flatten(data)
        steps = rows.view(len(data), -1, self.inner.columns)
        boxed = self.place(steps, out=steps if consume else None).flatten(1)
        if self.inner.full(data):
            return boxed, boxed.new_ones(1).expand_as(boxed)
        real = self.inner.real(data).float()
        return boxed.mul_(real), real

    def place(self, steps: Tensor, out: Tensor | None = None) -> Tensor:
        """Shift and scale columns ``[..., E]`` into the box."""
        return torch.addcmul(self._shift, steps, self._factor, out=out)

    def explained(
        self, data: WindowBatch, score: Tensor, share: Tensor, copies: Tensor | None = None
    ) -> Scores:
        """Spread scores ``[B]`` by shares ``[B, D]``; what was expected follows from the copies."""
        found = replace(self.inner.explained(data, score.clamp(min=0), share), score=score)
        if copies is None:
            return found
        columns = copies.view(len(data), self.inner.steps, -1) * self.half + self.centre
        return replace(found, expected=self.inner.numbers(columns, data))

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything learned, as tensors whose names start with ``prefix``."""
        box = {f"{prefix}centre": self.centre, f"{prefix}half": self.half}
        return {**self.inner.state(prefix), **box}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str, shape: Shape) -> Self:
        """Rebuild what :meth:`state` described; ``KeyError`` if a part is missing."""
        inner = RecordInput.from_state(state, prefix, shape)
        return cls(inner, state[f"{prefix}centre"], state[f"{prefix}half"])
