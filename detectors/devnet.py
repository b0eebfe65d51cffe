"""Deviation network: a few labelled anomalies teach a score that is near 0 for everything else."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from torch import Tensor, nn

from detectors.capabilities import Capabilities
from detectors.few_labels import FewLabels
from detectors.loops.deviation import Prior, deviate
from detectors.loops.stage import Count, Positive, Stage, Training
from detectors.nets.mlp import mlp
from detectors.nets.widths import EqualWidths


class DevNet(FewLabels):
    """Score ``tau(x)`` in standard deviations from what normal instances get.

    A network maps a flattened window to one number. Training draws unlabelled windows, taken as
    normal, towards the mean of reference scores from ``N(0, 1)``, and pushes labelled anomalies
    beyond ``margin`` standard deviations above it:

    ``L = (1 - y) |dev(x)| + y max(0, margin - dev(x))``, ``dev(x) = (tau(x) - mean) / spread``.

    Half of each mini-batch are labelled anomalies, drawn with replacement. ``partial_fit`` adds
    labels: it goes on from the current weights with the new windows and a memory of old ones.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D`` columns; about
    ``20 D`` multiply-adds a window.

    Notes
    -----
    ``tau = 1.96`` lies outside the two-sided 95 % interval of the prior. That is a statement about
    the prior and not a false-alarm rate: training pulls normal scores together far more tightly.

    Adaptations: windows are flattened after padding, categories become columns, all columns are
    made equally wide and shown by rank as well, labelled normals count as unlabelled,
    ``partial_fit`` is as long as a fit. Explanations are the size of gradient times input.

    References
    ----------
    Pang et al. 2019, *Deep anomaly detection with deviation networks*. Survey: Pang et al. 2020,
    section 6.2, equation 40.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden
            Widths of the hidden layers.
        margin
            Deviation beyond which a labelled anomaly costs nothing more.
        l2
            Weight of the squared kernels of the hidden layers in the loss.
        """

        hidden: tuple[Count, ...] = (20,)
        margin: Positive = 5.0
        l2: Annotated[float, msgspec.Meta(ge=0.0)] = 0.01
        epochs: Count = 50
        steps_per_epoch: Count = 20
        batch: Annotated[int, msgspec.Meta(ge=2)] = 512
        decay: Positive = 1.0
        optimiser: Literal["adam", "rmsprop"] = "rmsprop"

    caps = Capabilities(
        name="devnet",
        section="6.2",
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

    def _groups(self) -> list[dict[str, object]]:
        """Decay of twice ``l2``, the gradient of ``l2 ||W||²``, on hidden kernels only."""
        layers = [layer for layer in self._net.children() if isinstance(layer, nn.Linear)]
        kernels = [layer.weight for layer in layers[:-1]]
        rest = [layer.bias for layer in layers] + [layers[-1].weight]
        return [
            {"params": kernels, "weight_decay": 2 * self.config.l2},
            {"params": rest, "weight_decay": 0.0},
        ]

    def _tau(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to scores ``[B]``; the last layer is linear, for a score has no bounds."""
        scores: Tensor = self._net(rows).squeeze(-1)
        return scores

    def _teach(self, stage: Stage, others: Tensor, anomalies: Tensor) -> None:
        deviate(stage, others, anomalies, Prior(margin=self.config.margin), self._tau)

    def _build(self) -> nn.Sequential:
        columns = self._input.width
        layers = mlp([2 * columns, *self.config.hidden, 1])
        return nn.Sequential(EqualWidths(columns), *layers).to(self.device)
