"""Fast AnoGAN: an encoder, learned afterwards, says at once which noise a window is made from."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import msgspec
from torch import Tensor, nn

from detectors.adversarial import Found, boxed, mean_square
from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.loops.adversarial import Game, Turn
from detectors.loops.stage import Count, Player, Positive, Run, Weight
from detectors.maker import MakerDetector, MakerNet, MakerTraining
from detectors.nets.adversarial import encoder


class FanoGanNet(MakerNet):
    """Maker, judge with layer norms, and an encoder ``D - 128 - 64 - K``."""

    def __init__(self, columns: int, code: int) -> None:
        super().__init__(columns, code, norm="layer")
        self.encoder = encoder(columns, (128, 64), code)


class FastAnoGan(MakerDetector):
    """``||x - G(E(x))||² / D + kappa ||h(x) - h(G(E(x)))||² / H``.

    A Wasserstein GAN learns to make normal windows ``G(z)`` from noise. Its weights then stay, and
    an encoder ``E`` learns to minimise the score itself: the distance of a window and its copy,
    and that of what the judge's last hidden layer ``h``, of ``H`` units, says of them.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``500 D + 40,000`` multiply-adds a window.

    Notes
    -----
    Copies can only be what the maker makes, so that the encoder cannot learn to copy anomalies.
    ``game`` also takes the other losses. Explanations spread the score over the fields by the
    squared distance of window and copy. Layer norms keep the judge's features at one scale, so that
    ``kappa`` needs no scaling by what the features usually differ by.

    Adaptations: dense layers in place of residual convolutions, windows are flattened, columns are
    mapped to -1 .. 1 by quantiles, a running average of the weights, weights of both stages chosen
    by how well held-out windows are told from synthetic ones around them, narrower codes, larger
    steps over larger mini-batches than in the paper.

    References
    ----------
    Schlegl et al. 2019, *f-AnoGAN: fast unsupervised anomaly detection with generative adversarial
    networks*; Arjovsky et al. 2017, *Wasserstein generative adversarial networks*; Gulrajani et
    al. 2017, *Improved training of Wasserstein GANs*. Survey: Pang et al. 2020, section 5.1.2.
    """

    class Config(MakerTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every detector with a maker.

        Attributes
        ----------
        kappa
            Weight of the judge's features.
        encoder_epochs, encoder_rate
            Epochs and learning rate of the encoder, which RMSprop trains.
        """

        kappa: Weight = 1.0
        encoder_epochs: Count = 30
        encoder_rate: Positive = 5e-4
        game: Game = "wgan_gp"

    caps = Capabilities(
        name="fanogan",
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
    game_share = 0.6  # the encoder has the rest
    _net: FanoGanNet

    def _network(self, columns: int) -> nn.Module:
        return FanoGanNet(columns, self.config.code)

    def _learn(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        super()._learn(run, early, late)
        config = self.config
        settings = msgspec.structs.replace(
            config,
            epochs=config.encoder_epochs,
            learning_rate=config.encoder_rate,
            optimiser="rmsprop",
        )
        stage = replace(self._stage(run), settings=settings)
        self._compete(stage, [self._encoding()], early, late)

    def _encoding(self) -> Player[Turn]:
        """Who plays alone in the second stage."""
        return Player([self._net.encoder], lambda turn: self._izi(turn.rows, turn.real)[0])

    def _izi(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Score ``[B]`` and copies of rows ``[B, D]``: from the image to its code and back."""
        net, seen = self._net, boxed(rows)
        copies = net.generator(net.encoder(seen)) * real
        features = net.critic.features(seen) - net.critic.features(copies)
        score = mean_square(rows - copies, real) + self.config.kappa * features.square().mean(dim=1)
        return cast("Tensor", score), copies

    def _examine(self, rows: Tensor, real: Tensor, *, explain: bool) -> Found:
        score, copies = self._izi(rows, real)
        return Found(score, (rows - copies).square(), copies)
