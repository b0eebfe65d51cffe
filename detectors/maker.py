"""What detectors share that first learn to make normal windows from noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from detectors.adversarial import GenerativeDetector, GenerativeTraining
from detectors.batch import WindowBatch
from detectors.loops.adversarial import Turn, seeing
from detectors.loops.stage import Count, Player, Run
from detectors.nets.adversarial import Critic, Norm, generator

MADE = 512
"""Made rows that rows are compared with to choose among weights."""

AT_ONCE = 64
"""Rows compared at once; bounds memory."""


class MakerNet(nn.Module):
    """Maker ``K - 64 - 128 - D`` and judge ``D - 128 - 64 - 1``."""

    def __init__(self, columns: int, code: int, *, norm: Norm = "none") -> None:
        super().__init__()
        self.generator = generator(code, (64, 128), columns)
        self.critic = Critic(columns, (128, 64), norm=norm)


class MakerTraining(GenerativeTraining, frozen=True, kw_only=True):
    """Settings of every detector with a maker, besides those of every generative detector.

    Attributes
    ----------
    code
        Numbers ``K`` that a row is made from.
    """

    code: Count = 32


class MakerDetector(GenerativeDetector):
    """A GAN over rows. How good it is shows in how near normal rows are to made ones."""

    game_share: ClassVar[float] = 1.0
    """Share of a budget that the game may use up."""
    _net: MakerNet

    def _players(self) -> Sequence[Player[Turn]]:
        net, rules, watch = self._net, self._rules, self._watch()

        def made(turn: Turn) -> Tensor:
            rows: Tensor = net.generator(turn.noise) * turn.real
            return rows

        def judge(turn: Turn) -> Tensor:
            critic = seeing(net.critic, turn.real)
            return rules.duel(critic, (turn.rows,), (made(turn),), watch)

        def make(turn: Turn) -> Tensor:
            return rules.persuade(net.critic(made(turn)))

        return [
            Player([net.critic], judge, starts_over=watch.stuck),
            Player([net.generator], make, every=rules.every),
        ]

    def _learn(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        draws = torch.Generator().manual_seed(run.seed)
        noise = torch.randn(MADE, self._code(), generator=draws).to(self.device)

        def nearest_made(rows: Tensor, real: Tensor) -> Tensor:
            made = self._net.generator(noise)
            gaps = [
                ((part.unsqueeze(1) - made).abs() * here.unsqueeze(1)).sum(dim=2).amin(dim=1)
                for part, here in zip(
                    torch.split(rows, AT_ONCE), torch.split(real, AT_ONCE), strict=True
                )
            ]
            return torch.cat(gaps)

        stage = replace(self._stage(run), share=self.game_share)
        self._compete(stage, self._players(), early, late, nearest_made)
