"""Latent space autoregression: a window is copied badly, or has a code that is unlikely."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.dense import DenseDetector, DenseTraining, squared_error
from detectors.detector import Budget
from detectors.loops.batches import evaluate, split
from detectors.loops.moments import Moments
from detectors.loops.stage import Count
from detectors.nets.autoencoder import code_width
from detectors.nets.autoregressive import AutoregressiveDensity
from detectors.nets.mlp import mlp
from detectors.scores import Explain, Scores


class LatentAutoregressionNet(nn.Module):
    """An autoencoder with codes in 0 .. 1, and a density of the codes."""

    def __init__(
        self, inputs: int, hidden: tuple[int, ...], code: int, density: AutoregressiveDensity
    ) -> None:
        super().__init__()
        self.encoder = mlp([inputs, *hidden, code], activation=nn.LeakyReLU).append(nn.Sigmoid())
        self.decoder = mlp([code, *reversed(hidden), inputs], activation=nn.LeakyReLU)
        self.density = density

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to its copy."""
        copy: Tensor = self.decoder(self.encoder(rows))
        return copy


class LatentAutoregression(DenseDetector):
    """Error of copying a window plus surprise at its code, both as deviations from the usual.

    An autoencoder with codes ``z`` in 0 .. 1 and an estimator of ``p(z) = prod_j p(z_j | z_<j)``
    are trained together on ``||x - xhat||² / D - surprise log p(z)``. The estimator sees each
    coordinate through those before it and says in which of ``bins`` bins it lies. A window scores
    the sum of its error and of ``-log p(z)``, each less its mean and over its standard deviation on
    held-out windows.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``128 D + K² width (width (layers - 2) + bins)`` multiply-adds
    a window for a code of ``K`` coordinates.

    Notes
    -----
    A surprise that weighs too much makes all codes alike: nothing is as easy to predict as a
    constant. The encoder learns from the estimator only through what the estimator reads, as bins
    have no gradient.

    From the paper: masked layers over quantised codes, both terms of loss and score. Adaptations:
    dense layers over flattened windows instead of convolutions; ``surprise`` is a tenth of the
    paper's, at which coordinates of small codes stand still; terms are weighed by statistics of
    the fit instead of the extremes of a whole recording; between two bins the log-probability is
    interpolated; categories become columns. Shares of steps and fields are those of the error.

    References
    ----------
    Abati et al. 2019, *Latent space autoregression for novelty detection*. Survey: Pang et al.
    2020, section 5.1.3, equations 19-20.
    """

    class Config(DenseTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every dense autoencoder.

        Attributes
        ----------
        hidden
            Widths of the encoder's hidden layers; the decoder has them in reverse.
        code
            Width ``K`` of the code; an eighth of the columns if left out.
        surprise
            Weight of ``-log p(z)``.
        bins, width, layers
            Of the estimator: bins and hidden units per coordinate, and masked layers.
        """

        hidden: tuple[Count, ...] = (64, 32)
        code: Count | None = None
        surprise: Annotated[float, msgspec.Meta(ge=0.0)] = 0.01
        bins: Annotated[int, msgspec.Meta(ge=2)] = 100
        width: Count = 16
        layers: Annotated[int, msgspec.Meta(ge=2)] = 4

    caps = Capabilities(
        name="lsa",
        section="5.1.3",
        supervision="semi-supervised",
        kinds=("record", "series"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="reconstruction",
        sources=("SUBSPACE",),
    )
    chunk = 1024
    _net: LatentAutoregressionNet

    def _network(self, columns: int) -> nn.Module:
        config = self.config
        code = config.code or code_width(columns)
        density = AutoregressiveDensity(code, config.bins, config.width, config.layers)
        return LatentAutoregressionNet(columns, config.hidden, code, density)

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._fit(data, labels, budget)
        self._usual_terms = self._moments(split(data)[1])

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._partial_fit(data, labels, budget)
        self._usual_terms = self._usual_terms.updated(self._moments(split(data)[1]))

    def _loss(self, rows: Tensor, real: Tensor) -> Tensor:
        code = self._net.encoder(rows)
        surprise = self._net.density.surprisal(code).sum(dim=1)
        error = squared_error(self._net.decoder(code), rows, real) / real.sum(dim=1).clamp(min=1)
        return torch.add(error, surprise, alpha=self.config.surprise)

    def _held_out_loss(self, rows: Tensor, real: Tensor) -> Tensor:
        return self._loss(rows, real)

    def _moments(self, data: WindowBatch) -> Moments:
        """Mean and spread of both terms."""
        terms = evaluate(
            lambda part: self._terms(part, self._copied(part, "none")), data, self.config.batch
        )
        return Moments.fit(terms, self.config.trim)

    # -- scoring ----------------------------------------------------------------------------

    def _copied(self, data: WindowBatch, explain: Explain) -> Scores:
        """Score the copies alone."""
        return super()._score(data, explain)

    def _terms(self, data: WindowBatch, copied: Scores) -> Tensor:
        """``[B, 2]``: error of the copy, and surprise at the code."""
        code = self._net.encoder(self._rows(data))
        return torch.stack([copied.score, self._net.density.surprisal(code).sum(dim=1)], dim=1)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        copied = self._copied(data, explain)
        usual = self._usual_terms
        spread = usual.covariance.diagonal().sqrt()
        deviations = (self._terms(data, copied) - usual.mean) / spread
        return replace(copied, score=deviations.sum(dim=1).float())

    # -- files ------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), **self._usual_terms.state("terms.")}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._usual_terms = Moments.from_state(state, "terms.")
        super()._restore(state)
