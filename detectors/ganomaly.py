"""GANomaly: a window whose copy has another code than the window itself is anomalous."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from detectors.adversarial import Found, GenerativeDetector, GenerativeTraining, absolute
from detectors.capabilities import Capabilities
from detectors.loops.adversarial import Turn, seeing
from detectors.loops.stage import Count, Player, Weight
from detectors.nets.adversarial import Critic, encoder, generator


class GanomalyNet(nn.Module):
    """Encoder, decoder, second encoder and judge."""

    def __init__(self, columns: int, hidden: tuple[int, ...], code: int) -> None:
        super().__init__()
        self.first = encoder(columns, hidden, code)
        self.decoder = generator(code, hidden[::-1], columns)
        self.second = encoder(columns, hidden, code)
        self.critic = Critic(columns, hidden)


class Ganomaly(GenerativeDetector):
    """Distance ``||G_E(x) - E(G(x))||_1`` between the codes of a window and of its copy.

    A window goes through ``x -> G_E -> z -> G_D -> xhat -> E -> zhat``. The three networks minimise
    the distance of a judge's features, ``||h(x) - h(xhat)||_2 / sqrt(H)``, that of the windows,
    ``||x - xhat||_1 / D``, and that of the codes, ``||z - zhat||_2 / sqrt(K)``, with weights 1, 50
    and 1; the judge learns to tell windows from copies. A copy is always on the side of what is
    normal, so that the code of an anomaly is lost on the way.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``390 D + 25,000`` multiply-adds a window.

    Notes
    -----
    Codes of a few numbers compare badly: a code may be wider than the window, because it is the
    copy that loses what is not normal. Where what is normal fills few of the dimensions that it is
    given in, the distance of window and copy (``score="residual"``) sees more than that of codes.
    Explanations spread the score over the fields by the distance of window and copy. A judge that
    has long been sure starts over.

    Adaptations: distances in training are means over the entries, which the weights are meant for
    whatever the widths; dense layers over flattened windows in place of convolutions over images,
    no batch norm, columns mapped to -1 .. 1 by quantiles, a running average of the weights, weights
    chosen by how the score tells held-out windows from synthetic ones around them, scores as they
    are instead of rescaled over a test set.

    References
    ----------
    Akcay et al. 2018, *GANomaly: semi-supervised anomaly detection via adversarial training*.
    Survey: Pang et al. 2020, section 5.1.2, equations 13-17.
    """

    class Config(GenerativeTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every generative detector.

        Attributes
        ----------
        hidden
            Widths of the hidden layers of encoders and judge; the decoder has them in reverse.
        code
            Width of the codes.
        adversarial, contextual, encoding
            Weights of the three distances: of features, windows and codes.
        score
            Distance of ``codes``, or of windows (``residual``).
        """

        hidden: tuple[Count, ...] = (128, 64)
        code: Count = 32
        adversarial: Weight = 1.0
        contextual: Weight = 50.0
        encoding: Weight = 1.0
        score: Literal["codes", "residual"] = "codes"

    caps = Capabilities(
        name="ganomaly",
        section="5.1.2",
        supervision="semi-supervised",
        kinds=("record", "series"),
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="adversarial",
        sources=("CLUSTERS",),
    )
    _net: GanomalyNet

    def _network(self, columns: int) -> nn.Module:
        return GanomalyNet(columns, self.config.hidden, self.config.code)

    def _players(self) -> Sequence[Player[Turn]]:
        net, rules = self._net, self._rules
        watch = self._watch()

        def judge(turn: Turn) -> Tensor:
            copies = net.decoder(net.first(turn.rows)) * turn.real
            return rules.duel(seeing(net.critic, turn.real), (turn.rows,), (copies,), watch)

        makers = [net.first, net.decoder, net.second]
        return [
            Player([net.critic], judge, starts_over=watch.stuck),
            Player(makers, self._make, every=rules.every),
        ]

    def _make(self, turn: Turn) -> Tensor:
        config, critic = self.config, self._net.critic
        code, copies, again = self._round_trip(turn.rows, turn.real)
        features = critic.features(turn.rows) - critic.features(copies)
        gap = absolute(turn.rows - copies, turn.real) / turn.rows.shape[1]
        loss = config.contextual * gap
        loss = loss + config.adversarial * root_mean_square(features)
        return cast("Tensor", loss + config.encoding * root_mean_square(code - again))

    def _round_trip(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, copies, and codes of the copies."""
        code = self._net.first(rows)
        copies = self._net.decoder(code) * real
        return code, copies, self._net.second(copies)

    def _examine(self, rows: Tensor, real: Tensor, *, explain: bool) -> Found:
        code, copies, again = self._round_trip(rows, real)
        gap = (rows - copies).abs()
        if self.config.score == "codes":
            return Found((code - again).abs().sum(dim=1), gap, copies)
        return Found(absolute(gap, real), gap, copies)


def root_mean_square(gap: Tensor) -> Tensor:
    """``[B]`` of ``[B, H]``."""
    norm: Tensor = torch.linalg.vector_norm(gap, dim=1) / math.sqrt(gap.shape[1])
    return norm
