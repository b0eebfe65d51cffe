"""ALAD: a bidirectional GAN whose judges also insist that windows and codes come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detectors.adversarial import Found, boxed
from detectors.bidirectional import (
    BidirectionalDetector,
    BidirectionalNet,
    BidirectionalTraining,
    Match,
)
from detectors.capabilities import Capabilities
from detectors.loops.adversarial import Turn, seeing
from detectors.loops.stage import Player, Share
from detectors.nets.adversarial import Critic

ROWS, CODES = 128, 32
"""Widths of the judges of pairs of rows and of pairs of codes."""


class AladNet(BidirectionalNet):
    """A bidirectional GAN with two more judges, ``2D - 128 - 1`` and ``2K - 32 - 1``."""

    def __init__(self, columns: int, code: int, *, dropout: float) -> None:
        super().__init__(columns, code, dropout=dropout, norm="spectral")
        self.of_rows = Critic(2 * columns, [ROWS], norm="spectral", dropout=dropout)
        self.of_codes = Critic(2 * code, [CODES], norm="spectral", dropout=dropout)


class Alad(BidirectionalDetector):
    """``||h(x, x) - h(x, G(E(x)))||_1``: how differently a judge sees a window and its copy.

    Three judges play against encoder ``E`` and maker ``G``: one sees rows beside codes, as in a
    bidirectional GAN; the second tells ``(x, x)`` from ``(x, G(E(x)))``, the third ``(z, z)`` from
    ``(z, E(G(z)))``, so that windows and codes have to come back as they went. The last hidden
    layer ``h`` of the second is what windows and copies are compared by.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``700 D + 15,000`` multiply-adds a window.

    Notes
    -----
    At the start every copy is poor and the second judge has an easy game; dropout and spectral
    norms, which bound how steep encoder and judges can get, keep it from winning outright. For the
    weights that are kept the bound holds only nearly: they are an average, and their norms are
    estimated for the weights of the last step. Explanations spread the score over the fields by the
    distance of window and copy.

    Adaptations: windows are flattened; columns are mapped to -1 .. 1 by quantiles; the second judge
    sees a window as it came when it scores, and not clipped to -1 .. 1, where extreme values would
    look like usual ones; a running
    average of the weights; weights are chosen by how the score tells held-out windows from
    synthetic ones around them; larger steps over larger mini-batches than in the paper.

    References
    ----------
    Zenati et al. 2018, *Adversarially learned anomaly detection*; Miyato et al. 2018, *Spectral
    normalization for generative adversarial networks*. Survey: Pang et al. 2020, section 5.1.2.
    """

    class Config(BidirectionalTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every bidirectional GAN.

        Attributes
        ----------
        dropout
            Share of the judges' units that training hides.
        """

        dropout: Share = 0.2

    caps = Capabilities(
        name="alad",
        section="5.1.2",
        supervision="semi-supervised",
        kinds=("record", "series"),
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="adversarial",
        sources=("SUBSPACE",),
    )
    _net: AladNet

    def _network(self, columns: int) -> nn.Module:
        return AladNet(columns, self.config.code, dropout=self.config.dropout)

    def _players(self) -> Sequence[Player[Turn]]:
        net, rules = self._net, self._rules
        watches = [self._watch() for _ in range(3)]
        judges = [net.critic, net.of_rows, net.of_codes]

        def judge(turn: Turn) -> Tensor:
            seen: list[Callable[..., Tensor]] = [
                seeing(net.critic, turn.real),
                seeing(net.of_rows, twice(turn.real)),
                net.of_codes,
            ]
            duels = zip(seen, self._matches(turn), watches, strict=True)
            losses = [rules.duel(one, *match, watch) for one, match, watch in duels]
            return torch.stack(losses).sum(dim=0)

        def make(turn: Turn) -> Tensor:
            pairs, rows, codes = self._matches(turn)
            loss = self._confuse(*pairs)
            loss = loss + rules.persuade(net.of_rows(*rows[1]))
            return loss + rules.persuade(net.of_codes(*codes[1]))

        return [
            Player(judges, judge, starts_over=lambda: any([w.stuck() for w in watches])),
            Player([net.encoder, net.generator], make, every=rules.every),
        ]

    def _matches(self, turn: Turn) -> list[Match]:
        """Pair off what each judge has to tell apart."""
        rows, noise, net = turn.rows, turn.noise, self._net
        real, made = self._pairs(turn)
        copies, codes = net.generator(real[1]) * turn.real, net.encoder(made[0])
        of_rows = (twice(rows),), (torch.cat([rows, copies], dim=1),)
        of_codes = (twice(noise),), (torch.cat([noise, codes], dim=1),)
        return [(real, made), of_rows, of_codes]

    def _examine(self, rows: Tensor, real: Tensor, *, explain: bool) -> Found:
        net, seen = self._net, boxed(rows)
        copies = net.generator(net.encoder(seen)) * real
        same = net.of_rows.features(twice(rows))
        other = net.of_rows.features(torch.cat([rows, copies], dim=1))
        return Found((same - other).abs().sum(dim=1), (rows - copies).abs(), copies)


def twice(rows: Tensor) -> Tensor:
    """Put rows beside themselves."""
    return torch.cat([rows, rows], dim=1)
