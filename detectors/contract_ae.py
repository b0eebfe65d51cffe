"""Contractive autoencoder: its code follows only those changes that normal windows show."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.capabilities import Capabilities
from detectors.dense import DenseDetector, DenseTraining, squared_error
from detectors.loops.stage import Count
from detectors.nets.autoencoder import TiedAutoencoder


class ContractiveAutoencoder(DenseDetector):
    """Error of copying a window through a code that resists every change of its input.

    One sigmoid layer ``h = sigmoid(W x + b)`` and its tied inverse ``xhat = W' h + b'`` minimise

    ``||x - xhat||² + penalty ||dh/dx||_F²``,
    ``||dh/dx||_F² = sum_j (h_j (1 - h_j))² sum_i W_ji²``.

    Directions that windows need in order to be told apart are worth the penalty, all others are
    not, and an anomaly along those is not copied. The score is the mean of ``(x - xhat)²`` over the
    real entries, by default in units of what each field has on held-out windows.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; ``2 D H`` multiply-adds a window for ``H`` units.

    Notes
    -----
    Weights are tied, since a code could otherwise shrink and its decoder grow to make up for it.
    Where the sigmoid is nearly straight, the penalty drops the directions with a variance below an
    eighth of it; inputs are in robust standard deviations.

    Adaptations: a linear output instead of one in 0 .. 1, categories as columns, windows flattened
    after padding, errors weighed by field.

    References
    ----------
    Rifai et al. 2011, *Contractive auto-encoders: explicit invariance during feature extraction*.
    Survey: Pang et al. 2020, section 5.1.1.
    """

    class Config(DenseTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every dense autoencoder.

        Attributes
        ----------
        hidden
            Units ``H``.
        penalty
            Weight of the squared norm of the Jacobian.
        """

        hidden: Count = 64
        penalty: Annotated[float, msgspec.Meta(ge=0.0)] = 0.1

    caps = Capabilities(
        name="contract_ae",
        section="5.1.1",
        supervision="semi-supervised",
        kinds=("record", "series"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="tiny",
        loop="reconstruction",
        sources=("SUBSPACE", "WAVES"),
    )
    _net: TiedAutoencoder

    def _network(self, columns: int) -> nn.Module:
        return TiedAutoencoder(columns, self.config.hidden, torch.sigmoid)

    def _loss(self, rows: Tensor, real: Tensor) -> Tensor:
        code = self._net.encode(rows)
        error = squared_error(self._net.decode(code), rows, real)
        penalty: float = self.config.penalty
        return error + penalty * contraction(code, self._net.weight)

    def _held_out_loss(self, rows: Tensor, real: Tensor) -> Tensor:
        return self._loss(rows, real)


def contraction(code: Tensor, weight: Tensor) -> Tensor:
    """Squared Frobenius norms ``[B]`` of the Jacobians of ``code = sigmoid(W x + b)``.

    Parameters
    ----------
    code
        ``[B, H]``.
    weight
        ``W [H, D]``.
    """
    return (code * (1 - code)).square() @ weight.square().sum(dim=1)
