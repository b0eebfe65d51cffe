"""Variational autoencoder: a window that is unlikely, or needs an unlikely code, is anomalous."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.dense import DenseDetector, DenseTraining
from detectors.device import beside
from detectors.loops.stage import Count
from detectors.nets.mlp import mlp
from detectors.scores import Explain, Scores

LEAST, MOST = -6.0, 4.0
"""Range of all log variances. Without it, the variance of a column could fall without limit where
it is constant, or rise until it explains every anomaly away."""


class VariationalNet(nn.Module):
    """Gaussian over codes for each row, and a Gaussian over rows for each code.

    Parameters
    ----------
    inputs, columns
        ``D`` and ``E``: each column has one variance, the same at every step.
    hidden, code
        Widths of the encoder's hidden layers, and ``K``.
    """

    def __init__(self, inputs: int, columns: int, hidden: Sequence[int], code: int) -> None:
        super().__init__()
        self.encoder = mlp([inputs, *hidden, 2 * code])
        self.decoder = mlp([code, *reversed(hidden), inputs])
        self.log_variance = nn.Parameter(torch.zeros(columns))

    def posterior(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance ``[B, K]`` of the code of rows ``[B, D]``."""
        mean, log_variance = self.encoder(rows).chunk(2, dim=-1)
        return mean, log_variance.clamp(LEAST, MOST)

    def noise(self) -> Tensor:
        """Log variance ``[E]`` of the columns around what the decoder says."""
        return self.log_variance.clamp(LEAST, MOST)

    def draw(self, mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
        """One code ``[B, K]`` for each row."""
        noise = beside(torch.randn(mean.shape, generator=generator), mean)
        return mean + noise * (log_variance / 2).exp()

    def surprise(self, residual: Tensor, real: Tensor) -> Tensor:
        """``-log p(x|z)``, ``[B]``, of residuals ``[B, D]``, of which some entries are real."""
        steps = residual.shape[1] // len(self.log_variance)
        constant = (self.noise() + math.log(2 * math.pi)).repeat(steps) / 2
        return ((self.entry(residual) + constant) * real).sum(dim=-1)

    def entry(self, residual: Tensor) -> Tensor:
        """Squares ``[B, D]`` of residuals in units of twice the variance of their column."""
        steps = residual.shape[1] // len(self.log_variance)
        return residual.square() / (2 * self.noise().exp().repeat(steps))

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to the row that its mean code stands for."""
        copy: Tensor = self.decoder(self.posterior(rows)[0])
        return copy


class VariationalAutoencoder(DenseDetector):
    """Negative log-likelihood of a window given its mean code, plus what the code costs.

    The encoder gives a Gaussian ``q(z|x) = N(mu, diag sigma²)``, the decoder a Gaussian around the
    window with one learned variance per column. Training minimises
    ``-E_q[log p(x|z)] + beta KL(q(z|x) || N(0, I))``, with one drawn code per window, and
    ``beta`` rising to 1 over the warm-up. The score is ``-log p(x|z = mu(x)) + KL(x)``, divided by
    the number of real entries; nothing is drawn for it.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``128 D`` multiply-adds a window.

    Notes
    -----
    Without the warm-up, the prior wins before the decoder has learned anything, and the code stays
    empty. Explanations are squared errors in units of the decoder's variance; constants and the
    cost of the code belong to no single field and are left out of them, so that they do not add up
    to the score. Scores may be negative.

    Adaptations: categories are columns of the same Gaussian, windows are flattened after padding.

    References
    ----------
    Kingma and Welling 2014, *Auto-encoding variational Bayes*; An and Cho 2015, *Variational
    autoencoder based anomaly detection using reconstruction probability*, whose average over drawn
    codes is replaced by the mean code. Survey: Pang et al. 2020, section 5.1.1.
    """

    class Config(DenseTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every dense autoencoder.

        Attributes
        ----------
        hidden
            Widths of the encoder's hidden layers; the decoder has them in reverse.
        code
            Width ``K`` of the code. Entries that are not needed fall back to the prior.
        warm_up
            Epochs over which ``beta`` rises.
        whiten
            Off, because the learned variances weigh the columns.
        """

        hidden: tuple[Count, ...] = (64, 32)
        code: Count = 8
        warm_up: Count = 10
        whiten: bool = False

    caps = Capabilities(
        name="vae",
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
    _net: VariationalNet

    def _network(self, columns: int) -> nn.Module:
        config = self.config
        return VariationalNet(columns, self._input.columns, config.hidden, config.code)

    def _warm_up(self) -> int:
        epochs: int = self.config.warm_up
        return epochs

    def _loss(self, rows: Tensor, real: Tensor) -> Tensor:
        mean, log_variance = self._net.posterior(rows)
        copies = self._net.decoder(self._net.draw(mean, log_variance, self._corruption))
        cost = self.warmth * divergence(mean, log_variance)
        return self._net.surprise(rows - copies, real) + cost

    def _held_out_loss(self, rows: Tensor, real: Tensor) -> Tensor:
        mean, log_variance = self._net.posterior(rows)
        surprise = self._net.surprise(rows - self._net.decoder(mean), real)
        return surprise + divergence(mean, log_variance)

    def _entry(self, residual: Tensor) -> Tensor:
        return self._net.entry(residual)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        rows = self._rows(data)
        left_out = self._net.surprise(torch.zeros_like(rows), self._real(data))
        left_out = left_out + divergence(*self._net.posterior(rows))
        return replace(scores, score=scores.score + left_out / self._entries(data))


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``KL(N(mean, exp(log_variance)) || N(0, I))`` of ``[B, K]``, ``[B]`` and never negative."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1) / 2
