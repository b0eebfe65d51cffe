"""DAGMM: a Gaussian mixture over codes and reconstruction errors says which windows are rare."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.loops.stage import Count, Share
from detectors.mixture_energy import MixtureEnergy, MixtureNet, MixtureTraining, error_features
from detectors.nets.mlp import mlp
from detectors.scaling import QuartileScaler


class DagmmNet(MixtureNet):
    """Autoencoder, and the estimation network that says which component a code belongs to."""

    def __init__(
        self, columns: int, hidden: tuple[int, ...], code: int, estimation: tuple[int, int, float]
    ) -> None:
        super().__init__()
        width, components, dropout = estimation
        self.encoder = mlp([columns, *hidden, code], activation=nn.Tanh)
        self.decoder = mlp([code, *reversed(hidden), columns], activation=nn.Tanh)
        self.estimation = nn.Sequential(
            nn.Linear(code + 2, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, components)
        )

    def forward(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[B, D]``, which of their entries are real, to copies and ``z [B, code + 2]``."""
        code = self.encoder(rows)
        copies = self.decoder(code) * real
        return copies, torch.cat([code, error_features(rows, copies)], dim=1)

    def memberships(self, z: Tensor) -> Tensor:
        """``[B, K]``, rows of which sum to 1."""
        return torch.softmax(self.estimation(z), dim=1)


class Dagmm(MixtureEnergy):
    """Energy ``-log sum_k pi_k N(z; mu_k, Sigma_k)`` of a window under a mixture of Gaussians.

    The vector ``z`` joins the code of an autoencoder with two measures of its error: the relative
    distance of window and copy, and their cosine. A second network gives each ``z`` its shares in
    the components, whose moments follow from the shares. Both networks are trained together on
    ``|x - xhat|²`` plus ``energy_weight`` times the energy under the moments of the mini-batch,
    plus ``penalty`` times the sum of one over each variance, which keeps components from
    collapsing. One pass over all training windows then sets the moments that scores are computed
    with; ``partial_fit`` renews these and leaves the networks as they are.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``120 D`` multiply-adds a window and ``K (code + 2)²`` in
    float64.

    Notes
    -----
    The defaults presume about 100,000 windows. On a few thousand, 200 epochs are too few steps and
    the ranking can come out inverted: take 3 components, a learning rate of 1e-3, mini-batches of
    256 and enough epochs for 1,200 steps. A ``code`` narrower than what normal windows vary in
    leaves large errors in normal windows too.

    Explanations spread how far the energy lies above its least possible value over the fields, by
    their squared errors of reconstruction.

    Adaptations: categories become columns, windows are flattened after padding and padded entries
    take no part in errors, numbers are robustly scaled, lengths in the error features are bounded
    from below, the variances have a ridge, gradients are clipped, the rate decays in the last
    quarter, mini-batches too small for moments of their own are left out. As in the paper, nothing
    is held out: training runs for all its epochs, and the weights of the least training loss stay.

    References
    ----------
    Zong et al. 2018, *Deep autoencoding Gaussian mixture model for unsupervised anomaly detection*.
    Survey: Pang et al. 2020, section 5.2.3, equation 32.
    """

    class Config(MixtureTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every mixture over codes.

        Attributes
        ----------
        estimation, dropout
            Width of the estimation network, and share of it that training hides.
        """

        estimation: Count = 10
        dropout: Share = 0.5

    scaling = QuartileScaler
    caps = Capabilities(
        name="dagmm",
        section="5.2.3",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="clustering",
        sources=("SUBSPACE",),
    )

    def _loss(self, batch: WindowBatch) -> Tensor:
        rows, real = self._rows(batch)
        copies, z = self._net(rows, real)
        errors: Tensor = ((rows - copies) * real).square().sum(dim=1)
        return errors + self._mixture_loss(z)

    def _build(self) -> DagmmNet:
        config = self.config
        estimation = (config.estimation, config.components, config.dropout)
        return DagmmNet(self._input.width, config.hidden, config.code, estimation).to(self.device)
