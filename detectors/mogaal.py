"""MO-GAAL: several makers surround the data, each at its own height of the judge's opinion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import msgspec
import torch
from torch import Tensor, nn

from detectors.adversarial import AdversarialTraining, uniform
from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.judge import JudgeDetector
from detectors.loops.adversarial import Turn, cross_entropy
from detectors.loops.stage import Count, Player, Positive, Run, Share, Stage
from detectors.nets.adversarial import Makers
from detectors.nets.mlp import mlp

MOMENTUM = (0.9, 0.999)
"""Memory of Adam: the paper's, and longer than in other games. With less of it a single maker runs
through all parts of the data."""


class MultipleMakersNet(nn.Module):
    """``k`` makers ``D - D - D``, and a judge ``D - hidden - 1``."""

    def __init__(self, columns: int, hidden: int, makers: int) -> None:
        super().__init__()
        self.makers = Makers(makers, columns)
        self.critic = mlp([columns, hidden, 1])


class MultipleMakers(JudgeDetector):
    """Surprise ``-log D(x)`` of a judge that was taught by several makers at once.

    The judge learns to tell the data from all that the makers make. Maker ``i`` of ``k`` wants
    the judge to think of its points what it thinks of the ``i``-th part of the data, in order of
    what it thinks: the makers spread over the data from its least to its most typical part,
    instead of crowding where one maker would. After ``stop`` of the training the makers rest, and
    the judge alone learns where their points end and the data begins.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``64 D`` multiply-adds a window: only the judge works.

    Notes
    -----
    Makers that stop too early leave no boundary, and the judge of makers that stop too late finds
    nothing to hold on to. Explanations integrate the gradient of the score on the way to the window
    from the nearest of some windows of the fit.

    Adaptations: Adam in place of gradient descent, with the same momentum; parts of a mini-batch in
    place of parts of all data; columns are mapped to -1 .. 1 by quantiles; a running average of the
    weights; weights are chosen by how the score tells held-out windows from synthetic ones around
    them; the judge is not asked beyond three times the box that nearly all of the data fills.
    Losses without probabilities are left out.

    References
    ----------
    Liu et al. 2020, *Generative adversarial active learning for unsupervised outlier detection*.
    Survey: Pang et al. 2020, section 6.4.
    """

    class Config(AdversarialTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every adversarial detector.

        Attributes
        ----------
        hidden
            Width of the judge's hidden layer.
        makers
            ``k``.
        maker_rate
            Factor on the learning rate for the makers.
        stop
            Share of the epochs, and of a budget, after which the makers rest.
        """

        hidden: Count = 64
        makers: Count = 10
        maker_rate: Positive = 0.1
        stop: Share = 0.34
        learning_rate: Positive = 2e-3

    caps = Capabilities(
        name="mogaal",
        section="6.4",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="head-only",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="adversarial",
        sources=("CLUSTERS",),
    )
    _net: MultipleMakersNet

    def _network(self, columns: int) -> nn.Module:
        return MultipleMakersNet(columns, self.config.hidden, self.config.makers)

    def _code(self) -> int:
        return self._input.width

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        return uniform(count, self._code(), generator)

    def _stage(self, run: Run) -> Stage:
        return replace(super()._stage(run), betas=MOMENTUM)

    def _learn(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        config, stage = self.config, self._stage(run)
        together = max(1, round(config.stop * config.epochs))
        alone = max(1, config.epochs - together)
        first, second = (
            msgspec.structs.replace(config, epochs=epochs) for epochs in (together, alone)
        )
        game = replace(stage, settings=first, share=config.stop)
        self._compete(game, self._players(), early, late)
        self._compete(replace(stage, settings=second), self._players()[:1], early, late)

    def _players(self) -> Sequence[Player[Turn]]:
        net = self._net

        def made(turn: Turn) -> Tensor:
            """Points ``[k, B, D]``, the same noise for every maker."""
            points: Tensor = net.makers(turn.noise) * turn.real
            return points

        def judge(turn: Turn) -> Tensor:
            real = cross_entropy(self._logits(turn.rows), 1.0)
            return real + cross_entropy(self._logits(made(turn)), 0.0).mean(dim=0)

        def make(turn: Turn) -> Tensor:
            opinion = torch.sigmoid(self._logits(turn.rows))
            targets = torch.quantile(opinion, net.makers.heights)
            return cross_entropy(self._logits(made(turn)), targets.unsqueeze(1)).mean(dim=0)

        return [Player([net.critic], judge), Player([net.makers], make, self.config.maker_rate)]

    def _logits(self, rows: Tensor) -> Tensor:
        return cast("Tensor", self._net.critic(rows).squeeze(-1))
