"""GMM-VAE: a variational autoencoder with a mixture as its prior, and a mixture over its errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.loops.stage import Count, Positive, Run, Stage, Weight
from detectors.loops.training import warm_up
from detectors.mixture_energy import MixtureEnergy, MixtureNet, MixtureTraining, error_features
from detectors.vae import LEAST, MOST, VariationalNet


class MixturePrior(nn.Module):
    """Gaussians with diagonal covariances among the codes: ``sum_k pi_k N(m_k, diag s_k²)``."""

    def __init__(self, components: int, code: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(components, code))
        self.log_variance = nn.Parameter(torch.zeros(components, code))
        self.logits = nn.Parameter(torch.zeros(components))

    def terms(self, codes: Tensor) -> Tensor:
        """``log(pi_k N(z; m_k, s_k²))``, ``[B, K]``, of codes ``[B, Z]``."""
        log_variance = self.log_variance.clamp(LEAST, MOST)
        gap = (codes.unsqueeze(1) - self.mean).square() / log_variance.exp()
        density = -(gap + log_variance + math.log(2 * math.pi)).sum(dim=2) / 2
        return density + self.logits.log_softmax(dim=0)

    def log_density(self, codes: Tensor) -> Tensor:
        """``log p(z)``, ``[B]``."""
        return self.terms(codes).logsumexp(dim=1)


class MixtureVaeNet(MixtureNet):
    """Variational autoencoder and the prior of its codes."""

    def __init__(
        self, inputs: int, columns: int, hidden: Sequence[int], code: int, components: int
    ) -> None:
        super().__init__()
        self.vae = VariationalNet(inputs, columns, hidden, code)
        self.prior = MixturePrior(components, code)

    def forward(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[B, D]``, which of their entries are real, to copies and ``z [B, code + 2]``."""
        mean, _ = self.vae.posterior(rows)
        copies = self.vae.decoder(mean) * real
        return copies, torch.cat([mean, error_features(rows, copies)], dim=1)

    def memberships(self, z: Tensor) -> Tensor:
        """Shares ``[B, K]`` of the components of the prior in the code."""
        return self.prior.terms(z[:, :-2]).softmax(dim=1)

    def cost(self, drawn: Tensor, log_variance: Tensor) -> Tensor:
        """``log q(z|x) - log p(z)``, ``[B]``: the first by its mean, the second at the drawn code.

        Its mean over the draws is the divergence of the code's distribution from the prior.
        """
        entropy = (1 + math.log(2 * math.pi) + log_variance).sum(dim=1) / 2
        return -entropy - self.prior.log_density(drawn)


class MixtureVae(MixtureEnergy):
    """Energy ``-log sum_k pi_k N(z; mu_k, Sigma_k)`` of a window's mean code and its errors.

    A variational autoencoder is trained whose codes are expected to follow a mixture ``p(z)`` of
    ``components`` Gaussians that is learned with it. The loss is
    ``-E_q[log p(x|z)] + E_q[log q(z|x) - log p(z)]`` with one drawn code per window, plus
    ``energy_weight`` times the energy, in a second mixture, of ``z``: the mean code, the relative
    distance of window and copy, and their cosine. A window belongs to a component of that mixture
    as much as its code does to that of the prior. One pass over all training windows then sets the
    moments that scores are computed with; ``partial_fit`` renews these and leaves the networks as
    they are. Nothing is drawn for a score.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``128 D`` multiply-adds a window and ``K (code + 2)²`` in
    float64.

    Notes
    -----
    With a single component that is fixed at ``N(0, I)``, and without the energy, the loss is that
    of the plain variational autoencoder. What the codes cost, and the energy with its penalty, rise
    from nothing over the warm-up: codes that all windows share would be the cheapest from the
    start. A large ``penalty`` widens the errors of normal windows, which are small here.

    Explanations spread how far the energy lies above its least possible value over the fields, by
    their squared errors of reconstruction.

    Adaptations: the survey only sketches the loss, and how its parts are put together is ours, as
    are the memberships; categories become columns, windows are flattened after padding. Nothing is
    held out: training runs for all its epochs, and the weights of the least training loss stay.

    References
    ----------
    Liao et al. 2018, *A unified unsupervised Gaussian mixture variational autoencoder for high
    dimensional outlier detection*; Zong et al. 2018, *Deep autoencoding Gaussian mixture model for
    unsupervised anomaly detection* (energy and errors). Survey: Pang et al. 2020, section 5.2.3.
    """

    class Config(MixtureTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every mixture over codes.

        Attributes
        ----------
        warm_up
            Epochs over which the cost of the codes rises.
        """

        hidden: tuple[Count, ...] = (64, 32)
        code: Count = 4
        warm_up: Count = 10
        penalty: Weight = 1e-4
        ridge: Positive = 1e-3
        epochs: Count = 50
        batch: Count = 256
        learning_rate: Positive = 1e-3

    caps = Capabilities(
        name="gmvae",
        section="5.2.3",
        supervision="unsupervised",
        kinds=("record",),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="clustering",
        sources=("SUBSPACE",),
    )
    _net: MixtureVaeNet
    warmth: float = 1.0

    def _train(self, data: WindowBatch, run: Run) -> None:
        self._noise = torch.Generator().manual_seed(self.seed)
        settings = msgspec.structs.replace(self.config, epochs=self.config.warm_up, decay=1.0)
        warm_up(
            Stage(self._net, settings, run, share=0.5),
            lambda generator: self._draw(data, generator),
            self._loss,
            self._tighten,
        )
        super()._train(data, run)

    def _tighten(self, warmth: float) -> None:
        self.warmth = warmth

    def _loss(self, batch: WindowBatch) -> Tensor:
        rows, real = self._rows(batch)
        loss = self._variational_loss(rows, real)
        if self.config.energy_weight or self.config.penalty:
            loss = loss + self.warmth * self._mixture_loss(self._net(rows, real)[1])
        return loss

    def _variational_loss(self, rows: Tensor, real: Tensor) -> Tensor:
        vae = self._net.vae
        mean, log_variance = vae.posterior(rows)
        drawn = vae.draw(mean, log_variance, self._noise)
        surprise = vae.surprise(rows - vae.decoder(drawn), real)
        return surprise + self.warmth * self._net.cost(drawn, log_variance)

    def _build(self) -> MixtureVaeNet:
        config = self.config
        net = MixtureVaeNet(
            self._input.width, self._input.columns, config.hidden, config.code, config.components
        )
        return net.to(self.device)
