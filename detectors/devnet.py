"""Deviation network: a few labelled anomalies teach a score that is near 0 for everything else."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.loops.deviation import Prior, deviate
from detectors.loops.training import Count, Positive, Run, Stage, Training, gentle
from detectors.nets.mlp import mlp
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores

KEPT_ANOMALIES = 1024
"""Labelled anomalies, the latest ones, that are kept for updates: forgetting them would undo what
analysts taught."""

KEPT_OTHERS = 2048
"""Unlabelled windows kept for updates; without them a handful of labels alone would be learned."""


class DevNet(Detector):
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

    Adaptations: windows are flattened after padding, categories become columns, inputs are robustly
    scaled, labelled normals count as unlabelled. Explanations are the size of gradient times input.

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

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._net = self._build()
        empty = data.num.new_zeros((0, self._width()))
        self._anomalies, self._others = empty, empty
        self._learn(data, labels, self.config, Run(self.seed, budget, self.report))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        # the full learning rate: a tenth of it would not let a new label be seen to work
        settings = msgspec.structs.replace(
            gentle(self.config), learning_rate=self.config.learning_rate
        )
        self._learn(data, labels, settings, Run(self.seed + 1, budget, self.report))

    def _learn(
        self, data: WindowBatch, labels: Tensor | None, settings: Training, run: Run
    ) -> None:
        """Train on new windows and remembered ones, then renew the memory."""
        rows = self._input.flatten(data, self._fitted().steps)
        anomalous = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        if labels is not None:
            anomalous = labels == 1
        anomalies = torch.cat([self._anomalies, rows[anomalous]])
        others = torch.cat([self._others, rows[~anomalous]])
        if len(anomalies) and len(others):
            stage = Stage(self._net, settings, run, groups=self._groups())
            prior = Prior(margin=self.config.margin)
            deviate(stage, others, anomalies, prior, self._tau)
        self._anomalies = anomalies[-KEPT_ANOMALIES:]
        generator = torch.Generator().manual_seed(run.seed)
        kept = torch.randperm(len(others), generator=generator)[:KEPT_OTHERS]
        self._others = others[kept.sort().values.to(others.device)]

    def _groups(self) -> list[dict[str, object]]:
        """Decay of twice ``l2``, the gradient of ``l2 ||W||²``, on hidden kernels only."""
        layers = [layer for layer in self._net if isinstance(layer, nn.Linear)]
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

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        steps = self._fitted().steps
        rows = self._input.flatten(data, steps)
        score = self._tau(rows)
        if explain == "none":
            return Scores(score)
        with torch.inference_mode(False), torch.enable_grad():
            inputs = rows.clone().requires_grad_()
            gradient = torch.autograd.grad(self._tau(inputs).sum(), inputs)[0]
        share = (gradient * rows).abs().view(len(rows), steps, -1)[:, : data.steps]
        fields = self._input.attribute(share)
        return Scores(score, fields.sum(dim=-1), fields)

    def _width(self) -> int:
        return self._fitted().steps * self._input.columns

    def _build(self) -> nn.Sequential:
        return mlp([self._width(), *self.config.hidden, 1]).to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **self._input.state("input."),
            **module_state(self._net, "net."),
            "anomalies": self._anomalies,
            "others": self._others,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._anomalies, self._others = state["anomalies"], state["others"]
        self._net = self._build()
        load_module(self._net, state, "net.")
