"""DAGMM: a Gaussian mixture over codes and reconstruction errors says which windows are rare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.loops.mixture import Mixture
from detectors.loops.training import (
    Count,
    Positive,
    Run,
    Share,
    Stage,
    Training,
    minibatches,
    train,
)
from detectors.nets.mlp import mlp
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores

LEAST_NORM = 1e-2
"""Shortest length that a window counts with in the relative error; a window near zero would
otherwise have a huge one by rounding alone."""

Weight = Annotated[float, msgspec.Meta(ge=0.0)]


class DagmmNet(nn.Module):
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


def error_features(rows: Tensor, copies: Tensor) -> Tensor:
    """Relative error ``|x - xhat| / |x|`` and cosine of the two, ``[B, 2]``."""
    # lengths through a sum that is never 0, where a square root would have no gradient
    size, copied, gap = (
        (part.square().sum(dim=1) + LEAST_NORM**2).sqrt() for part in (rows, copies, rows - copies)
    )
    cosine = (rows * copies).sum(dim=1) / (size * copied)
    return torch.stack([gap / size, cosine], dim=1)


class Dagmm(Detector):
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
    256 and enough epochs for a thousand steps. A ``code`` narrower than what normal windows vary in
    leaves large errors in normal windows too.

    Explanations spread how far the energy lies above its least possible value over the fields, by
    their squared errors of reconstruction.

    Adaptations: categories become columns, windows are flattened after padding and padded entries
    take no part in errors, numbers are robustly scaled, lengths in the error features are bounded
    from below, the variances have a ridge, gradients are clipped, the rate decays in the last
    quarter, mini-batches too small for moments of their own are left out.

    References
    ----------
    Zong et al. 2018, *Deep autoencoding Gaussian mixture model for unsupervised anomaly detection*.
    Survey: Pang et al. 2020, section 5.2.3, equation 32.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden, code
            Widths of the encoder's hidden layers, mirrored by the decoder, and of its code.
        estimation, dropout
            Width of the estimation network, and share of it that training hides.
        components
            ``K``.
        energy_weight, penalty
            Weights of the energy and of the inverse variances in the loss.
        ridge
            Added to the variances.
        horizon
            Windows that ``partial_fit`` lets the past weigh at most; smaller forgets faster.
        """

        hidden: tuple[Count, ...] = (60, 30, 10)
        code: Count = 1
        estimation: Count = 10
        dropout: Share = 0.5
        components: Count = 4
        energy_weight: Weight = 0.1
        penalty: Weight = 0.005
        ridge: Positive = 1e-4
        horizon: Count = 100_000
        epochs: Count = 200
        batch: Count = 1024
        learning_rate: Positive = 1e-4

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
    chunk = 2048

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._net = self._build()
        run = Run(self.seed, budget, self.report)
        train(
            Stage(self._net, self.config, run),
            lambda generator: self._draw(data, generator),
            self._loss,
        )
        self._mixture = self._moments(data)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        newer = self._moments(data)
        self._mixture = self._mixture.updated(newer, self.config.horizon)
        with torch.no_grad():
            energies = [self._energy(part) for part in data.chunks(self.chunk)]
        self.report.losses = [float(torch.cat(energies).mean())]
        self.report.stopped = "epochs"

    def _draw(self, data: WindowBatch, generator: torch.Generator) -> Iterator[WindowBatch]:
        """Mini-batches large enough for moments; a small data set is one by itself."""
        least = min(len(data), self.config.batch // 2)
        for batch in minibatches(data, self.config, generator, new_ids=False):
            if len(batch) >= least:
                yield batch

    def _loss(self, batch: WindowBatch) -> Tensor:
        config = self.config
        rows, real = self._rows(batch)
        copies, z = self._net(rows, real)
        mixture = Mixture.fit(z, self._net.memberships(z), config.ridge)
        errors = ((rows - copies) * real).square().sum(dim=1)
        loss: Tensor = errors + config.energy_weight * mixture.energy(z)
        loss = loss + config.penalty * mixture.precisions()
        return loss

    def _moments(self, data: WindowBatch) -> Mixture:
        """Moments of all windows; the networks are done learning."""
        with torch.no_grad():
            z = torch.cat([self._net(*self._rows(part))[1] for part in data.chunks(self.chunk)])
            return Mixture.fit(z, self._net.memberships(z), self.config.ridge)

    # -- scoring ----------------------------------------------------------------------------

    def _rows(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Rows ``[B, D]``, and which of their entries are no padding."""
        steps = self._fitted().steps
        mask = nn.functional.pad(data.mask, (0, steps - data.steps))
        return self._input.flatten(data, steps), mask.repeat_interleave(self._input.columns, dim=1)

    def _energy(self, data: WindowBatch) -> Tensor:
        _, z = self._net(*self._rows(data))
        return self._mixture.energy(z)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        rows, real = self._rows(data)
        copies, z = self._net(rows, real)
        energy = self._mixture.energy(z)
        if explain == "none":
            return Scores(energy)
        above = (energy - self._mixture.floor()).float().clamp(min=0)
        found = self._input.explained(data, above, ((rows - copies) * real).square())
        steps = copies.view(len(data), -1, self._input.columns)[:, : data.steps]
        return replace(found, score=energy, expected=steps[:, :, : data.features])

    # -- files ------------------------------------------------------------------------------

    def _build(self) -> DagmmNet:
        config = self.config
        columns = self._fitted().steps * self._input.columns
        estimation = (config.estimation, config.components, config.dropout)
        return DagmmNet(columns, config.hidden, config.code, estimation).to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **self._input.state("input."),
            **module_state(self._net, "net."),
            **self._mixture.state("mixture."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._mixture = Mixture.from_state(state, "mixture.", self.config.ridge)
        self._net = self._build()
        load_module(self._net, state, "net.")
