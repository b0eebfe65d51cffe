"""One-class neural network: a hidden layer learned together with a hyperplane over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.inputs import LEAST_SPAN
from detectors.loops.attribution import path_change
from detectors.loops.batches import evaluate
from detectors.loops.margin import margin_loss, offset_of
from detectors.loops.reconstruction import copy_rows
from detectors.loops.stage import Count, Positive, Run, Stage, Training
from detectors.network import ExplainedNetwork

LEAST_PULL = 0.1
"""Least weight, in each unit, of a column that was constant at fit: without any, what was never
seen to move could do so unnoticed."""


class OneClassNet(nn.Module):
    """``w . g(V x)`` of rows ``x``, with a sigmoid ``g`` and without constants."""

    def __init__(self, columns: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(columns, hidden, bias=False)
        self.weigh = nn.Linear(hidden, 1, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to ``[B]``."""
        value: Tensor = self.weigh(self.project(rows).sigmoid()).squeeze(-1)
        return value

    def squared_weights(self) -> Tensor:
        """``|w|² + |V|²``."""
        return torch.stack([weights.square().sum() for weights in self.parameters()]).sum()

    @torch.no_grad()
    def pull_down(self, constant: Tensor) -> None:
        """Make the value fall, whatever the other columns do, when one of ``constant [D]`` rises.

        In each unit such a column weighs as much as the heaviest of the others.
        """
        kernel = self.project.weight
        heaviest = kernel.masked_fill(constant, 0.0).abs().amax(dim=1, keepdim=True)
        down = -self.weigh.weight.T.sign() * heaviest.clamp(min=LEAST_PULL)
        kernel.copy_(torch.where(constant, down, kernel))


class OneClassNeuralNetwork(ExplainedNetwork):
    """How far ``w . g(V x)`` of a record lies below ``rho``, which all but a share ``nu`` exceed.

    The hidden layer ``g(V x)`` is first taught as the encoder of an autoencoder. Training minimises

    ``0.5 |w|² + 0.5 |V|² + mean max(0, rho - w . g(V x)) / nu - rho``

    over ``w``, ``V`` and ``rho``; the best ``rho`` is the ``nu`` quantile of ``w . g(V x)``. A
    record with a positive score is outside.

    Shapes
    ------
    Records, windows ``[B, T, F + C]`` of one step with ``D`` columns; ``hidden D`` multiply-adds a
    record.

    Notes
    -----
    A hyperplane against the origin finds records that lie towards the origin of the scaled columns,
    where all are at the least value of the fit, or at the rarest of many categories. What lies
    beyond the normal records looks more normal than they do, and a gap between clusters of them
    does not stand out: a baseline rather than a first choice. ``V = 0``, which makes all records
    equal, is the best solution for columns of mean 0; they are therefore mapped to 0 .. 1 by the
    range of the fit, and not clipped.

    Adaptations: each mini-batch has its own ``rho``, and only scores use that of all records,
    because the paper's renewal after each epoch leaves training without a gradient in between;
    categories become columns; columns that were constant at fit, as those of new values are, get
    weights after training that lower the value whenever they move; the learning rate is higher; the
    linear ``g`` of the paper is left out, since its objective has no lower bound where inputs are
    longer than 1. Explanations are the size of what each field changes on the way from the nearest
    of some records of the fit, be it up or down.

    References
    ----------
    Chalapathy et al. 2018, *Anomaly detection using one-class neural networks*; Sundararajan et al.
    2017, *Axiomatic attribution for deep networks* (explanations). Survey: Pang et al. 2020,
    section 5.2.2, equation 27.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden
            Units of the hidden layer.
        nu
            Share of the training records that may lie outside.
        pretrain_epochs
            Epochs as an autoencoder.
        """

        hidden: Count = 32
        nu: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.1
        pretrain_epochs: Count = 15
        epochs: Count = 30
        steps_per_epoch: Count = 50
        batch: Count = 200
        learning_rate: Positive = 1e-2

    caps = Capabilities(
        name="ocnn",
        section="5.2.2",
        supervision="semi-supervised",
        kinds=("record",),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="one-class",
        sources=("ONESIDED",),
        waived={
            "rises_with_the_anomaly": "a hyperplane against the origin: what lies beyond the "
            "normal records looks more normal than they do",
        },
    )
    _net: OneClassNet

    def _network(self) -> OneClassNet:
        return OneClassNet(self._input.width, self.config.hidden)

    # -- learning ---------------------------------------------------------------------------

    def _pretrain(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        self._learn_range(WindowBatch.concatenate([early, late]))
        back = nn.Linear(self.config.hidden, len(self._constant) * self._fitted().steps)
        copier = nn.Sequential(self._net.project, nn.Sigmoid(), back.to(self.device))
        settings = msgspec.structs.replace(self.config, epochs=self.config.pretrain_epochs)
        # half of a budget, lest pre-training leave nothing to what it prepares
        stage = Stage(copier, settings, run, share=0.5)
        copy_rows(stage, early, late, lambda part: (self._scaled(part), self._real(part)))

    def _learn_range(self, data: WindowBatch) -> None:
        raw = evaluate(lambda part: self._input(part)[part.mask], data, self.config.batch)
        low, high = raw.amin(dim=0), raw.amax(dim=0)
        self._constant = high - low < LEAST_SPAN
        # the origin is where anomalies are seen: rare values belong there, not on the far side
        rare = torch.tensor(self._input.surprisals, device=raw.device)
        self._origin = torch.where(rare, high, low)
        self._span = torch.where(self._constant, 1.0, low + high - 2 * self._origin)

    def _train(self, settings: Training, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        super()._train(settings, run, early, late)
        self._net.pull_down(self._constant.repeat(self._fitted().steps))
        data = WindowBatch.concatenate([early, late])
        values = evaluate(lambda part: self._net(self._scaled(part)), data, settings.batch)
        self._offset = offset_of(values, self.config.nu)

    def _loss(self, data: WindowBatch) -> Tensor:
        hinge = margin_loss(self._net(self._scaled(data)), self.config.nu)
        return hinge + 0.5 * self._net.squared_weights()

    # -- scoring ----------------------------------------------------------------------------

    def _scaled(self, data: WindowBatch) -> Tensor:
        return self._scale(self._input(data), data.mask)

    def _scale(self, columns: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, E]`` to rows ``[B, D]``, 0 .. 1 where the fit was, padding at 0."""
        scaled = (columns - self._origin) / self._span
        scaled = torch.where(self._constant, scaled.abs(), scaled) * mask.unsqueeze(-1)
        missing = self._fitted().steps - columns.shape[1]
        return nn.functional.pad(scaled, (0, 0, 0, missing)).flatten(1)

    def _score_columns(self, columns: Tensor, mask: Tensor) -> Tensor:
        value: Tensor = self._net(self._scale(columns, mask))
        return self._offset - value

    def _shares(self, score: Callable[[Tensor], Tensor], start: Tensor, end: Tensor) -> Tensor:
        return path_change(score, start, end).abs()

    # -- files ------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        return {
            **super()._state(),
            "origin": self._origin,
            "span": self._span,
            "constant": self._constant,
            "offset": self._offset,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._origin, self._span = state["origin"], state["span"]
        self._constant = state["constant"]
        self._offset = state["offset"]
        super()._restore(state)
