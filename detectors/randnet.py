"""RandNet: autoencoders that each lack other connections vote on how well a record is copied."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.dense import DenseDetector, squared_error
from detectors.device import beside
from detectors.loops.batches import evaluate, held_out_loss
from detectors.loops.error_scale import ErrorScale
from detectors.loops.stage import Count, Positive, Stage, Training
from detectors.loops.training import train
from detectors.nets.stacked import StackedLinear
from detectors.scores import Explain, Scores

LEAST_WIDTH = 3
"""Units below which a layer with missing connections may pass on nothing at all."""


class RandomAutoencoders(nn.Module):
    """``M`` autoencoders of one shape, each with connections of its own.

    Parameters
    ----------
    members, widths
        ``M``, and the widths from the inputs to the outputs.
    """

    def __init__(self, members: int, widths: list[int]) -> None:
        super().__init__()
        self.members = members
        self.layers = nn.ModuleList(
            StackedLinear(members, a, b, sparse=True) for a, b in pairwise(widths)
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Copy rows ``[B, D]`` by all members, or ``[M, B, D]`` by one each, to ``[M, B, D]``."""
        hidden = rows.expand(self.members, -1, -1)
        for depth, layer in enumerate(self.layers):
            if depth == 1:
                hidden = torch.sigmoid(hidden)
            elif depth > 1:
                hidden = torch.relu(hidden)
            hidden = layer(hidden)
        return hidden


class RandNet(DenseDetector):
    """Median over an ensemble of autoencoders of how badly each copies a record.

    Member ``m`` has weights ``W_m * M_m`` with a mask ``M_m`` that is drawn once: of the places
    for connections, about 63 % are filled. It learns from mini-batches of its own, which grow
    during training, and errs by ``e_m(x) = ||x - xhat_m||²``. A record scores the median over the
    members of ``e_m(x) / std_m``, where ``std_m`` is the standard deviation of that member's errors
    on held-out records.

    Shapes
    ------
    Records, windows ``[B, T, F + C]`` of one step with ``D`` columns; about ``1.25 D²``
    multiply-adds a record and member.

    Notes
    -----
    Most members must agree: one that has learned anomalies by heart, or lacks a connection that a
    normal record needs, is outvoted. The spread over the members comes with each score.

    From the paper: random connections, halving widths, median, growing mini-batches, RMSprop.
    Adaptations: members lie in one tensor and share optimiser and early stop; outputs are linear,
    since scaled numbers are not confined to 0 .. 1; no pre-training; ``std_m`` is learned at fit;
    categories become columns. Shares of fields are medians too, in the units of the score.

    References
    ----------
    Chen et al. 2017, *Outlier detection with autoencoder ensembles*. Survey: Pang et al. 2020,
    section 5.1.1.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        members
            Autoencoders.
        depth, ratio
            Layers from input to code, and the width of each relative to the one before.
        first_batch, growth
            Records of the first mini-batch of each member, and the factor from each to the next,
            up to ``batch``.
        """

        members: Count = 32
        depth: Count = 2
        ratio: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.5
        first_batch: Count = 32
        growth: Annotated[float, msgspec.Meta(ge=1.0)] = 1.01
        batch: Count = 1024
        epochs: Count = 50
        learning_rate: Positive = 1e-3
        optimiser: Literal["adam", "rmsprop"] = "rmsprop"

    caps = Capabilities(
        name="randnet",
        section="5.1.1",
        supervision="unsupervised",
        kinds=("record",),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="reconstruction",
        sources=("SUBSPACE", "FEWLABELS"),
    )
    chunk = 256  # records of a chunk times members stay in the processor's cache

    def _network(self, columns: int) -> nn.Module:
        widths = [columns]
        for _ in range(self.config.depth):
            narrower = max(LEAST_WIDTH, round(self.config.ratio * widths[-1]))
            widths.append(min(widths[-1], narrower))
        return RandomAutoencoders(self.config.members, [*widths, *reversed(widths[:-1])])

    # -- learning ---------------------------------------------------------------------------

    def _train(self, stage: Stage, early: WindowBatch, late: WindowBatch) -> None:
        settings, rows, real = stage.settings, self._rows(early), self._real(early)

        def draw(generator: torch.Generator) -> Iterator[Tensor]:
            left = min(len(rows), settings.batch * settings.steps_per_epoch)
            while left > 0:
                size = min(left, self._batch_size(stage.run.steps, settings.batch))
                chosen = torch.randint(len(rows), (self.config.members, size), generator=generator)
                yield beside(chosen, rows)
                left -= size

        def loss(chosen: Tensor) -> Tensor:
            shown = rows[chosen]
            return squared_error(self._net(shown), shown, real[chosen]).flatten()

        def errors(part: WindowBatch) -> Tensor:
            return self._member_errors(part).mean(dim=0)

        train(stage, draw, loss, validate=lambda: held_out_loss(errors, late, settings))

    def _batch_size(self, steps: int, most: int) -> int:
        """Say how many records a mini-batch of each member has after ``steps`` others."""
        config = self.config
        times = math.exp(min(steps * math.log(config.growth), math.log(most)))
        size: int = round(config.first_batch * times)
        return min(most, size)

    def _usual(self, data: WindowBatch) -> ErrorScale:
        """Variance of the errors of each member."""
        errors = evaluate(lambda part: self._member_errors(part).T, data, self.config.batch)
        return ErrorScale.fit((errors - errors.mean(dim=0)).square(), self.config.trim)

    # -- scoring ----------------------------------------------------------------------------

    def _member_errors(self, data: WindowBatch) -> Tensor:
        """``[M, B]``: mean error over the real entries."""
        return self._copy(data)[1].sum(dim=(2, 3)) / self._entries(data)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        copies, errors = self._copy(data)
        units = self._scale.usual.sqrt()[:, None, None, None] * self._entries(data)[:, None, None]
        errors = errors / units
        votes = errors.sum(dim=(2, 3))
        score, spread = votes.median(dim=0).values, votes.std(dim=0, correction=0)
        if explain == "none":
            return Scores(score, uncertainty=spread)
        shares = errors.median(dim=0).values
        expected = copies[..., : data.features].median(dim=0).values
        return Scores(score, shares.sum(dim=-1), shares, expected, spread)
