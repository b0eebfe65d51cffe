"""Sparse autoencoder: a window that a few atoms of a large dictionary cannot make is anomalous."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.capabilities import Capabilities
from detectors.dense import DenseDetector, DenseTraining
from detectors.loops.stage import Count, Share
from detectors.nets.autoencoder import TiedAutoencoder

OVERCOMPLETE = 4
"""Units per column."""


class SparseAutoencoder(DenseDetector):
    """Error of copying a window as a sum of its ``k`` most active atoms.

    One linear layer of more units than columns, ``h = W x + b``; all entries of ``h`` but the ``k``
    largest are set to 0, ``xhat = W' supp_k(h) + b'``; training minimises ``sum ||x - xhat||²``.
    The score is the mean of ``(x - xhat)²`` over the real entries, by default in units of what each
    field has on held-out windows.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; ``2 D H`` multiply-adds a window for ``H`` units.

    Notes
    -----
    Units that are never among the largest would never learn, so that ``k`` falls from all units to
    its value over ``epochs / 2`` epochs before those of training. Largest means largest and not
    furthest from 0: an atom is added or left out, never subtracted.

    A kind of anomaly that recurs in the training data, be it ten times in two thousand windows,
    gets atoms of its own and then scores below normal windows. ``trim`` is therefore larger than
    for other autoencoders. It does not help at much higher learning rates, where the atoms are
    there before trimming begins: screen such data first.

    Adaptations: categories become columns, windows are flattened after padding, errors are weighed
    by field.

    References
    ----------
    Makhzani and Frey 2014, *k-sparse autoencoders*. Survey: Pang et al. 2020, section 5.1.1.
    """

    class Config(DenseTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every dense autoencoder.

        Attributes
        ----------
        hidden
            Units ``H``; four per column if left out.
        active
            Share ``k / H`` of the units that are active in training.
        relax
            Scoring has ``relax * k`` active units.
        """

        hidden: Count | None = None
        active: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.08
        relax: Annotated[float, msgspec.Meta(ge=1.0)] = 1.0
        trim: Share = 0.05

    caps = Capabilities(
        name="sparse_ae",
        section="5.1.1",
        supervision="semi-supervised",
        kinds=("record", "series"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="reconstruction",
        sources=("SUBSPACE", "WAVES"),
    )

    def _network(self, columns: int) -> nn.Module:
        units = self.config.hidden or OVERCOMPLETE * columns
        return TiedAutoencoder(columns, units, lambda codes: strongest(codes, self._kept(units)))

    def _kept(self, units: int) -> int:
        """Active units: those of scoring, or in training those of the current warmth."""
        active: float = self.config.active
        relax: float = self.config.relax
        k = max(1, round(active * units))
        if not self._net.training:
            return min(units, math.ceil(relax * k))
        return round(units + self.warmth * (k - units))

    def _warm_up(self) -> int:
        epochs: int = self.config.epochs
        return epochs // 2


def strongest(codes: Tensor, k: int) -> Tensor:
    """Keep the ``k`` largest entries of each code ``[B, H]``; exactly ``k``, also among equals."""
    values, units = codes.topk(k, dim=1)
    return torch.zeros_like(codes).scatter(1, units, values)
