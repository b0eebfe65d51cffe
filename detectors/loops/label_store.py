"""What is kept of past windows, so that an update neither forgets labels nor sees nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from detectors.arguments import UNLABELLED
from detectors.batch import WindowBatch
from detectors.detector import Shape
from detectors.device import beside

KEPT = 1024
"""Windows of each kind that are kept: labelled anomalies, labelled normals, unlabelled ones."""


@dataclass(frozen=True)
class LabelStore:
    """Scaled windows, all with the steps of the fit, and what is known of each.

    Attributes
    ----------
    windows
        ``N`` windows.
    marks
        ``[N]`` int8: 1 anomaly, 0 normal, -1 unlabelled.
    """

    windows: WindowBatch
    marks: Tensor

    @classmethod
    def of(cls, windows: WindowBatch, labels: Tensor | None) -> Self:
        """Take windows with their labels ``[N]``, if there are any."""
        marks = windows.lengths.new_full((len(windows),), UNLABELLED, dtype=torch.int8)
        return cls(windows, marks if labels is None else labels)

    def __getitem__(self, rows: Tensor) -> LabelStore:
        """Select by index tensor or bool tensor."""
        return LabelStore(self.windows[rows], self.marks[rows])

    def joined(self, newer: LabelStore) -> LabelStore:
        """Put newer windows behind these."""
        windows = WindowBatch.concatenate([self.windows, newer.windows])
        return LabelStore(windows, torch.cat([self.marks, newer.marks]))

    def of_kind(self, mark: int) -> WindowBatch:
        """Windows with this mark, in order."""
        return self.windows[self.marks == mark]

    def bounded(self, seed: int) -> LabelStore:
        """Keep the latest ``KEPT`` of each kind of label, and a random ``KEPT`` of the rest."""
        kept = []
        for mark in (UNLABELLED, 0, 1):
            rows = (self.marks == mark).nonzero().squeeze(1)
            if mark == UNLABELLED:
                generator = torch.Generator().manual_seed(seed)
                chosen = torch.randperm(len(rows), generator=generator)[:KEPT].sort().values
                rows = rows[beside(chosen, rows)]
            kept.append(rows[-KEPT:])
        return self[torch.cat(kept).sort().values]

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything kept, as tensors whose names start with ``prefix``."""
        return {**self.windows.state(prefix), f"{prefix}marks": self.marks}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str, shape: Shape) -> Self:
        """Rebuild what :meth:`state` described; ``KeyError`` if a part is missing."""
        windows = WindowBatch.from_state(state, prefix, shape.vocab)
        return cls(windows, state[f"{prefix}marks"])
