"""What detectors have in common that put a Gaussian mixture over codes and errors of copying."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.loops.batches import minibatches
from detectors.loops.mixture import Mixture
from detectors.loops.stage import Count, Positive, Run, Stage, Training, Weight
from detectors.loops.training import train
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores

LEAST_NORM = 1e-2
"""Shortest length that a window counts with in the relative error; a window near zero would
otherwise have a huge one by rounding alone."""


class MixtureTraining(Training, frozen=True, kw_only=True):
    """Settings of every mixture over codes, besides those of every training.

    Attributes
    ----------
    hidden, code
        Widths of the encoder's hidden layers, mirrored by the decoder, and of its code.
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
    components: Count = 4
    energy_weight: Weight = 0.1
    penalty: Weight = 0.005
    ridge: Positive = 1e-4
    horizon: Count = 100_000
    epochs: Count = 200
    batch: Count = 1024
    learning_rate: Positive = 1e-4


class MixtureNet(nn.Module):
    """An autoencoder, and what says which components its codes and errors ``z`` belong to."""

    def forward(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[B, D]``, which of their entries are real, to copies and ``z [B, code + 2]``."""
        raise NotImplementedError

    def memberships(self, z: Tensor) -> Tensor:
        """``[B, K]``, rows of which sum to 1."""
        raise NotImplementedError


class MixtureEnergy(Detector):
    """Energy ``-log sum_k pi_k N(z; mu_k, Sigma_k)`` of a window under a mixture of Gaussians.

    The vector ``z`` joins the code of an autoencoder with two measures of its error. One pass over
    all training windows sets the moments that scores are computed with; ``partial_fit`` renews
    these and leaves the networks as they are. Subclasses provide network and loss.

    Explanations spread how far the energy lies above its least possible value over the fields, by
    their squared errors of reconstruction.
    """

    chunk = 2048
    _net: MixtureNet

    @abstractmethod
    def _build(self) -> MixtureNet:
        """Make the untrained network for ``self._input.width`` columns, on the right device."""

    @abstractmethod
    def _loss(self, batch: WindowBatch) -> Tensor:
        """Training loss ``[B]``."""

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._net = self._build()
        self._train(data, Run(self.seed, budget, self.report))
        self._mixture = self._moments(data)

    def _train(self, data: WindowBatch, run: Run) -> None:
        stage = Stage(self._net, self.config, run)
        train(stage, lambda generator: self._draw(data, generator), self._loss)

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

    def _mixture_loss(self, z: Tensor) -> Tensor:
        """Energies ``[B]`` under the moments of the mini-batch itself, and the penalty, weighed."""
        config = self.config
        mixture = Mixture.fit(z, self._net.memberships(z), config.ridge)
        loss: Tensor = config.energy_weight * mixture.energy(z)
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
        return self._input.rows(data)

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
        return replace(found, score=energy, expected=self._input.numbers(copies, data))

    # -- files ------------------------------------------------------------------------------

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


def error_features(rows: Tensor, copies: Tensor) -> Tensor:
    """Relative error ``|x - xhat| / |x|`` and cosine of the two, ``[B, 2]``."""
    # lengths through a sum that is never 0, where a square root would have no gradient
    size, copied, gap = (
        (part.square().sum(dim=1) + LEAST_NORM**2).sqrt() for part in (rows, copies, rows - copies)
    )
    cosine = (rows * copies).sum(dim=1) / (size * copied)
    return torch.stack([gap / size, cosine], dim=1)
