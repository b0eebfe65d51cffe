"""EBGAN: a bidirectional GAN maps windows to codes and back; what does not come back is odd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from detectors.adversarial import Found, absolute, boxed
from detectors.bidirectional import BidirectionalDetector, BidirectionalNet, BidirectionalTraining
from detectors.capabilities import Capabilities
from detectors.loops.adversarial import Turn, seeing
from detectors.loops.stage import Player, Positive, Share, Weight


class BidirectionalGan(BidirectionalDetector):
    """``(1 - alpha) ||x - G(E(x))||_1 + alpha ||h(x, E(x)) - h(G(E(x)), E(x))||_1``.

    A judge sees rows beside codes and learns to tell windows with their codes, ``(x, E(x))``, from
    codes with what is made from them, ``(G(z), z)``. Encoder ``E`` and maker ``G`` can only win by
    being each other's inverse on what is normal. The score takes the distance of a window and its
    copy and, with weight ``alpha``, that of what the judge's last hidden layer ``h`` says of them;
    it takes one pass and no search.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``450 D + 90,000`` multiply-adds a window.

    Notes
    -----
    The game alone ties ``G(E(x))`` to ``x`` only loosely, and loses sight of it where columns are
    many; ``cycle`` adds their distance to the loss of ``G`` and ``E``. Explanations spread the
    score over the fields by that distance.

    Adaptations: ``cycle``, at the full weight of the distance; a layer norm where codes enter the
    judge; windows are flattened; columns are mapped to -1 .. 1 by quantiles; a running average of
    the weights; weights are chosen by how the score tells held-out windows from synthetic ones
    around them; larger steps over larger mini-batches than in the paper.

    References
    ----------
    Zenati et al. 2018, *Efficient GAN-based anomaly detection*; Donahue et al. 2017, *Adversarial
    feature learning*. Survey: Pang et al. 2020, section 5.1.2, equations 11-12.
    """

    class Config(BidirectionalTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every bidirectional GAN.

        Attributes
        ----------
        alpha
            Weight of the judge's features in the score.
        cycle
            Weight of the distance of windows and copies in training.
        dropout
            Share of the judge's units that training hides.
        """

        alpha: Share = 0.1
        cycle: Weight = 1.0
        dropout: Share = 0.5
        learning_rate: Positive = 1e-3

    caps = Capabilities(
        name="ebgan",
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

    def _network(self, columns: int) -> nn.Module:
        return BidirectionalNet(columns, self.config.code, dropout=self.config.dropout)

    def _players(self) -> Sequence[Player[Turn]]:
        net, rules = self._net, self._rules
        watch = self._watch()

        def judge(turn: Turn) -> Tensor:
            return rules.duel(seeing(net.critic, turn.real), *self._pairs(turn), watch)

        return [
            Player([net.critic], judge, starts_over=watch.stuck),
            Player([net.encoder, net.generator], self._make, every=rules.every),
        ]

    def _make(self, turn: Turn) -> Tensor:
        (rows, code), made = self._pairs(turn)
        loss = self._confuse((rows, code), made)
        if self.config.cycle:
            copies = self._net.generator(code) * turn.real
            loss = loss + self.config.cycle * absolute(rows - copies, turn.real)
        return loss

    def _examine(self, rows: Tensor, real: Tensor, *, explain: bool) -> Found:
        net, alpha = self._net, self.config.alpha
        seen = boxed(rows)
        code = net.encoder(seen)
        copies = net.generator(code) * real
        gap = (rows - copies).abs()
        features = net.critic.features(seen, code) - net.critic.features(copies, code)
        score = (1 - alpha) * absolute(gap, real) + alpha * features.abs().sum(dim=1)
        return Found(cast("Tensor", score), gap, copies)
