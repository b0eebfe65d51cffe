"""Fence GAN: a maker fences the data in, and the judge learns where the fence is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

import msgspec
from torch import Tensor, nn

from detectors.adversarial import AdversarialTraining
from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.judge import JudgeDetector, centred_radius
from detectors.loops.adversarial import Turn, cross_entropy
from detectors.loops.stage import Count, Player, Positive, Run
from detectors.nets.adversarial import Critic
from detectors.nets.mlp import mlp


class FenceNet(nn.Module):
    """Maker ``K - hidden - D`` with an output without bounds, and judge ``D - hidden - 1``."""

    def __init__(self, columns: int, hidden: tuple[int, ...], code: int) -> None:
        super().__init__()
        self.generator = mlp([code, *hidden, columns])
        self.critic = Critic(columns, hidden)


class FenceGan(JudgeDetector):
    """Surprise ``-log D(x)`` of a judge that has seen the data and a fence around it.

    The maker minimises the cross-entropy of ``D(G(z))`` to ``alpha``, so that it works where the
    judge is undecided, which is the edge of the data; and ``beta / E||G(z) - mu||``, with ``mu``
    the mean of what it makes, so that the fence goes all the way around. The judge minimises
    ``-log D(x) - gamma log(1 - D(G(z)))``: with ``gamma`` below 1 it rather believes the data.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``64 D + 4,000`` multiply-adds a window: only the judge works.

    Notes
    -----
    A fence may stay open on one side. Training is therefore tried ``attempts`` times, and what
    tells held-out windows best from synthetic ones around them is kept. Explanations integrate the
    gradient of the score on the way to the window from the nearest of some windows of the fit.

    Adaptations: the cross-entropy in place of ``log|alpha - D|``, as in the authors' code; ``beta``
    in units of the mean distance of the data from its mean; a running average of the weights; the
    judge is not asked beyond three times the box that nearly all of the data fills. A fence that
    flies off is not noticed by its radius, but by what its judge then makes of synthetic windows.
    Losses without probabilities are left out.

    References
    ----------
    Ngo et al. 2019, *Fence GAN: towards better anomaly detection*. Survey: Pang et al. 2020,
    section 6.4, equation 49.
    """

    class Config(AdversarialTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every adversarial detector.

        Attributes
        ----------
        hidden
            Widths of the hidden layers of maker and judge.
        code
            Numbers that a point of the fence is made from.
        alpha
            What the judge should think of the fence.
        beta
            Weight of the pull that spreads the fence.
        gamma
            Weight of the fence in the judge's loss.
        attempts
            Trainings, of which the best is kept.
        """

        hidden: tuple[Count, ...] = (64, 64)
        code: Count = 32
        alpha: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.5
        beta: Positive = 0.5
        gamma: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.2
        attempts: Count = 3
        learning_rate: Positive = 1e-3

    caps = Capabilities(
        name="fencegan",
        section="6.4",
        supervision="semi-supervised",
        kinds=("record", "series"),
        partial_fit="head-only",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="adversarial",
        sources=("SUBSPACE",),
    )
    _net: FenceNet

    def _network(self, columns: int) -> nn.Module:
        return FenceNet(columns, self.config.hidden, self.config.code)

    def _learn(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        self._best_of(self.config.attempts, run, early, late)

    def _players(self) -> Sequence[Player[Turn]]:
        net, config = self._net, self.config

        def judge(turn: Turn) -> Tensor:
            made = net.generator(turn.noise) * turn.real
            loss: Tensor = cross_entropy(net.critic(turn.rows), 1.0)
            return cast("Tensor", loss + config.gamma * cross_entropy(net.critic(made), 0.0))

        def fence(turn: Turn) -> Tensor:
            made = net.generator(turn.noise) * turn.real
            edge = cross_entropy(net.critic(made), config.alpha)
            pull = config.beta * centred_radius(turn.rows) / spread(made)
            return cast("Tensor", edge + pull)

        return [Player([net.critic], judge), Player([net.generator], fence)]

    def _logits(self, rows: Tensor) -> Tensor:
        return cast("Tensor", self._net.critic(rows))


def spread(made: Tensor) -> Tensor:
    """``[]``: mean distance from the mean, kept off 0, where the maker starts and one row stays."""
    return centred_radius(made).clamp(min=1e-3)
