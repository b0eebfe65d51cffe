"""Random Fourier features: a linear function of them is a sum of Gaussian kernels.

Rahimi and Recht 2007, "Random features for large-scale kernel machines".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

SAMPLED = 512
"""Rows whose distances to each other set the width of the kernel."""

LEAST_WIDTH = 1e-3
"""Rows that are all alike have no distances to go by."""


@dataclass(frozen=True)
class FourierFeatures:
    """Maps rows ``z`` to ``h(z)`` of length 1 with ``h(z) . h(z') ~ exp(-|z - z'|² / (2 s²))``.

    Attributes
    ----------
    frequencies
        ``[R, Z]`` or, for ``M`` kernels side by side, ``[M, R, Z]``; normal with standard
        deviation ``1 / s``.
    """

    frequencies: Tensor

    @classmethod
    def fit(cls, rows: Tensor, count: int, width: float) -> Self:
        """Draw ``count`` frequencies from torch's global generator.

        Parameters
        ----------
        rows
            ``[N, Z]`` or ``[N, M, Z]``.
        width
            ``s`` in median distances between the rows, of each kernel by itself.
        """
        some = rows[:: max(1, len(rows) // SAMPLED)][:SAMPLED].movedim(0, -2)
        apart = torch.cdist(some, some, compute_mode="donot_use_mm_for_euclid_dist")
        one, other = torch.triu_indices(apart.shape[-1], apart.shape[-1], offset=1)
        apart = apart[..., one, other] if len(one) else apart[..., 0]  # of a single row, 0
        median = apart.median(dim=-1).values
        drawn = torch.randn(*median.shape, count, rows.shape[-1]).to(rows.device)
        return cls(drawn / (width * median).clamp(min=LEAST_WIDTH)[..., None, None])

    def __call__(self, rows: Tensor) -> Tensor:
        """``[B, Z]`` or ``[B, M, Z]`` to ``[..., 2 R]``, cosines and then sines."""
        angle = torch.einsum("b...z,...rz->b...r", rows, self.frequencies)
        return torch.cat([angle.cos(), angle.sin()], dim=-1) / math.sqrt(angle.shape[-1])
