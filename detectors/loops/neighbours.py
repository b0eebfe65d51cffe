"""Nearest neighbours in random subsamples: a measure of isolation that needs no training.

Pang et al. 2015, "LeSiNN: detecting anomalies by identifying least similar nearest neighbours".
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.device import beside

SAMPLES, SIZE = 50, 8
"""Subsamples, and rows in each, that distances to nearest neighbours are averaged over."""

PART = 8192
"""Rows measured at a time; bounds memory and changes no distance."""


def draw_samples(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw the subsamples, as indices ``[SAMPLES * SIZE]`` into ``count`` rows.

    Draws from torch's global generator where no other is given.
    """
    return torch.randint(count, (SAMPLES * SIZE,), generator=generator)


def sample_distances(rows: Tensor, references: Tensor) -> Tensor:
    """Distances ``[B, SAMPLES, SIZE]`` of rows ``[B, D]`` to the drawn ``[SAMPLES * SIZE, D]``.

    Not by a matrix product, whose rounding would depend on what else is in the batch.
    """
    distances = torch.cdist(rows, references, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.view(len(rows), SAMPLES, SIZE)


def mean_nearest(rows: Tensor, references: Tensor) -> Tensor:
    """Mean over the subsamples of the distance ``[B]`` to the nearest row in each."""
    return sample_distances(rows, references).amin(dim=2).mean(dim=1)


def nearest_in_samples(rows: Tensor) -> Tensor:
    """Isolation ``[N]`` of rows ``[N, D]`` among themselves.

    Draws from torch's global generator.
    """
    references = rows[beside(draw_samples(len(rows)), rows)]
    return torch.cat([mean_nearest(part, references) for part in torch.split(rows, PART)])
