"""What bidirectional GANs share: a maker, an encoder, and a judge of rows beside codes."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, nn

from detectors.adversarial import GenerativeDetector, GenerativeTraining
from detectors.loops.adversarial import Turn
from detectors.loops.stage import Count
from detectors.nets.adversarial import Norm, PairCritic, encoder, generator

ENCODER = (64,)
GENERATOR = (64, 128)
BRANCH = 128
"""Widths of the hidden layers, and of the judge's layers, from the papers' networks for tables."""


Match: TypeAlias = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Real and made inputs of a judge."""


class BidirectionalNet(nn.Module):
    """Encoder ``D - 64 - K``, maker ``K - 64 - 128 - D``, and a judge of rows beside codes."""

    def __init__(self, columns: int, code: int, *, dropout: float, norm: Norm = "none") -> None:
        super().__init__()
        self.encoder = encoder(columns, ENCODER, code, norm=norm)
        self.generator = generator(code, GENERATOR, columns)
        self.critic = PairCritic(columns, code, BRANCH, [BRANCH], norm=norm, dropout=dropout)


class BidirectionalTraining(GenerativeTraining, frozen=True, kw_only=True):
    """Settings of every bidirectional GAN, besides those of every generative detector.

    Attributes
    ----------
    code
        Numbers ``K`` that a row is made from.
    """

    code: Count = 32


class BidirectionalDetector(GenerativeDetector):
    """Rows to codes and back, each the inverse of the other on what is normal."""

    _net: BidirectionalNet

    def _pairs(self, turn: Turn) -> Match:
        """Windows with their codes, and codes with what is made from them."""
        net = self._net
        made = net.generator(turn.noise) * turn.real
        return (turn.rows, net.encoder(turn.rows)), (made, turn.noise)

    def _confuse(self, real: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> Tensor:
        """Loss ``[B]`` of encoder and maker, who want the judge to take each for the other."""
        critic, rules = self._net.critic, self._rules
        return rules.persuade(critic(*real), real=False) + rules.persuade(critic(*made))
