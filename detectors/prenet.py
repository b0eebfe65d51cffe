"""Pairwise relation network: what stands beside a known anomaly tells how anomalous it is."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor, nn

from detectors.capabilities import Capabilities
from detectors.few_labels import FewLabels
from detectors.loops.pairs import relate
from detectors.loops.stage import Count, Positive, Stage, Training
from detectors.nets.mlp import mlp
from detectors.nets.widths import EqualWidths

REFERENCES = 30
"""Remembered anomalies, and remembered others, that a window is paired with."""


class PairNet(nn.Module):
    """One encoder for both sides of a pair, and a linear relation of the two codes.

    The relation is ``w1 . phi(a) + w2 . phi(b) + c``; ``first`` holds ``w1`` and the constant. Rows
    are ``columns`` and their ranks.
    """

    def __init__(self, columns: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        layers = mlp([2 * columns, *hidden])
        self.encoder = nn.Sequential(EqualWidths(columns), *layers, nn.ReLU())
        self.first = nn.Linear(hidden[-1], 1)
        self.second = nn.Linear(hidden[-1], 1, bias=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two times ``[B, 2 columns]`` to ``[B]``."""
        sides = self.first(self.encoder(first)) + self.second(self.encoder(second))
        relation: Tensor = sides.squeeze(-1)
        return relation


class PReNet(FewLabels):
    """Mean relation of a window to known anomalies and to unlabelled windows.

    A network learns to tell how many of two windows are known anomalies: pairs of unlabelled ones
    are drawn towards 0, an anomaly with an unlabelled one towards 4, two anomalies towards 8, by
    absolute error. The score is ``mean_a tau(a, x) + mean_u tau(x, u)`` over ``REFERENCES``
    remembered anomalies ``a`` and others ``u``: about 12 for anomalies and 4 for the rest.
    ``partial_fit`` adds labels and goes on from the current weights.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D`` columns; about
    ``20 D`` multiply-adds a window, since the relation is linear in the codes, and those of the
    references are known.

    Notes
    -----
    Anomalies come first in mixed pairs, in training as in the score. Adaptations: windows are
    flattened after padding, categories become columns, all columns are made equally wide and shown
    by rank as well, labelled normals count as unlabelled, the references are fixed, ``partial_fit``
    is as long as a fit. Explanations are the size of gradient times input.

    References
    ----------
    Pang et al. 2019, *Deep weakly-supervised anomaly detection*. Survey: Pang et al. 2020, section
    6.1, equation 36.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden
            Widths of the layers of the encoder.
        l2
            Weight of the squared kernels of the encoder in the loss.
        """

        hidden: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (20,)
        l2: Annotated[float, msgspec.Meta(ge=0.0)] = 0.01
        epochs: Count = 50
        steps_per_epoch: Count = 20
        batch: Annotated[int, msgspec.Meta(ge=4)] = 512
        decay: Positive = 1.0
        optimiser: Literal["adam", "rmsprop"] = "rmsprop"

    caps = Capabilities(
        name="prenet",
        section="6.1",
        supervision="weakly supervised",
        kinds=("record", "series"),
        min_labels=2,
        uses_labels=True,
        partial_fit="full",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="deviation",
        sources=("FEWLABELS",),
    )
    ranked = True
    _net: PairNet

    def _build(self) -> PairNet:
        return PairNet(self._input.width, self.config.hidden).to(self.device)

    def _groups(self) -> list[dict[str, object]]:
        """Decay of twice ``l2``, the gradient of ``l2 ||W||²``, on kernels of the encoder only."""
        layers = [layer for layer in self._net.encoder if isinstance(layer, nn.Linear)]
        kernels = [layer.weight for layer in layers]
        rest = [layer.bias for layer in layers]
        rest += [*self._net.first.parameters(), *self._net.second.parameters()]
        return [
            {"params": kernels, "weight_decay": 2 * self.config.l2},
            {"params": rest, "weight_decay": 0.0},
        ]

    def _teach(self, stage: Stage, others: Tensor, anomalies: Tensor) -> None:
        relate(stage, others, anomalies, self._net)

    def _derive(self) -> None:
        """Sum up what the references add to every score."""
        net = self._net
        anomalies, others = self._anomalies[-REFERENCES:], self._others[:REFERENCES]
        parts = net.first(net.encoder(anomalies)).mean(), net.second(net.encoder(others)).mean()
        # where there are labelled anomalies only, there is nothing to add
        self._constant = torch.stack(parts).nan_to_num(0.0).sum().detach()

    def _tau(self, rows: Tensor) -> Tensor:
        code = self._net.encoder(rows)
        own = (self._net.first(code) + self._net.second(code)).squeeze(-1)
        scores: Tensor = own + self._constant
        return scores
