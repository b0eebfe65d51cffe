"""What detectors that learn from a few labelled anomalies share: all but network and loss."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.device import beside
from detectors.inputs import RecordInput
from detectors.loops.attribution import gradient_times_input
from detectors.loops.stage import Run, Stage, Training, gentle
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores

KEPT_ANOMALIES = 1024
"""Labelled anomalies, the latest ones, that are kept for updates: forgetting them would undo what
analysts taught."""

KEPT_OTHERS = 2048
"""Unlabelled windows kept for updates; without them a handful of labels alone would be learned."""


class FewLabels(Detector):
    """Flattened windows, a memory of labelled and other ones, and gradients as explanations.

    Labelled normals count as unlabelled. Subclasses provide the network, how it is taught, and the
    scores that it gives.
    """

    _net: nn.Module

    @abstractmethod
    def _build(self) -> nn.Module:
        """Make the untrained network for ``self._input.width`` columns, on the right device."""

    @abstractmethod
    def _teach(self, stage: Stage, others: Tensor, anomalies: Tensor) -> None:
        """Train on ``[N, D]`` unlabelled and ``[A, D]`` anomalous rows, of which there are some."""

    @abstractmethod
    def _tau(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to scores ``[B]``."""

    @abstractmethod
    def _groups(self) -> list[dict[str, object]]:
        """Parameter groups of the optimiser."""

    def _derive(self) -> None:
        """Work out what scores need of the memory; called after learning and after loading."""

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._net = self._build()
        empty = data.num.new_zeros((0, self._input.width))
        self._anomalies, self._others = empty, empty
        self._learn(data, labels, self.config, Run(self.seed, budget, self.report))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        # the full learning rate: a tenth of it would not let a new label be seen to work
        settings = gentle(self.config, rate=1.0)
        self._learn(data, labels, settings, Run(self.seed + 1, budget, self.report, trained=True))

    def _learn(
        self, data: WindowBatch, labels: Tensor | None, settings: Training, run: Run
    ) -> None:
        """Train on new windows and remembered ones, then renew the memory."""
        rows = self._input.flatten(data)
        anomalous = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        if labels is not None:
            anomalous = labels == 1
        anomalies = torch.cat([self._anomalies, rows[anomalous]])
        others = torch.cat([self._others, rows[~anomalous]])
        stage = Stage(self._net, settings, run, groups=self._groups())
        self._teach(stage, others, anomalies)
        self._anomalies = anomalies[-KEPT_ANOMALIES:]
        generator = torch.Generator().manual_seed(run.seed)
        kept = torch.randperm(len(others), generator=generator)[:KEPT_OTHERS]
        self._others = others[beside(kept.sort().values, others)]
        self._derive()

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        rows = self._input.flatten(data)
        score = self._tau(rows)
        if explain == "none":
            return Scores(score)
        share = gradient_times_input(self._tau, rows)
        fields = self._input.attribute(self._input.unflatten(share, data))
        return Scores(score, fields.sum(dim=-1), fields)

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
        self._derive()
