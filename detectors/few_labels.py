"""What detectors that learn from a few labelled anomalies share: all but network and loss.

Those with ``caps.min_labels`` at 0 learn without any label as well.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.device import beside
from detectors.inputs import RecordInput
from detectors.loops.attribution import gradient_times_input
from detectors.loops.stage import Run, Stage, Training
from detectors.nets.modules import load_module, module_state
from detectors.nets.ranks import Ranks
from detectors.nets.widths import EqualWidths
from detectors.scaling import QuartileScaler
from detectors.scores import Explain, Scores

KEPT_ANOMALIES = 1024
"""Labelled anomalies, the latest ones, that are kept for updates: forgetting them would undo what
analysts taught."""

KEPT_OTHERS = 2048
"""Unlabelled windows kept for updates; without them a handful of labels alone would be learned."""


class FewLabels(Detector):
    """Flattened windows, a memory of labelled and other ones, and gradients as explanations.

    Labelled normals count as unlabelled. A network may begin with :class:`EqualWidths`: in robust
    sigmas, columns whose usual values lie close together would outweigh the others, and few labels
    cannot correct that. Subclasses provide the network, how it is taught, and the scores that it
    gives.

    Rows have ``D`` columns, or twice as many where they are ``ranked``.
    """

    scaling = QuartileScaler
    ranked: ClassVar[bool] = False
    """Whether each column is shown by its rank as well, see :class:`Ranks`."""
    _net: nn.Module

    @abstractmethod
    def _build(self) -> nn.Module:
        """Make the untrained network for rows, on the right device."""

    @abstractmethod
    def _teach(self, stage: Stage, others: Tensor, anomalies: Tensor) -> None:
        """Train on ``[N, D]`` unlabelled and ``[A, D]`` anomalous rows.

        There are some of both, but for ``A`` where the detector does without labels.
        """

    @abstractmethod
    def _tau(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to scores ``[B]``."""

    def _groups(self) -> list[dict[str, object]] | None:
        """Parameter groups of the optimiser; ``None`` treats all parameters alike."""
        return None

    def _derive(self) -> None:
        """Work out what scores need of the memory; called after learning and after loading."""

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._ranks = self._unlearned_ranks()
        if isinstance(self._ranks, Ranks):
            self._ranks.learn(self._input.flatten(data))
        self._net = self._build()
        for layer in self._net.modules():
            if isinstance(layer, EqualWidths):
                layer.learn(self._rows(data))
        empty = data.num.new_zeros((0, self._width))
        self._anomalies, self._others = empty, empty
        self._learn(data, labels, self.config, Run(self.seed, budget, self.report))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        # as long and as fast as a fit: a handful of new labels would not be seen to work otherwise
        run = Run.of_update(self.seed, budget, self.report)
        self._learn(data, labels, self.config, run)

    def _learn(
        self, data: WindowBatch, labels: Tensor | None, settings: Training, run: Run
    ) -> None:
        """Train on new windows and remembered ones, then renew the memory."""
        rows = self._rows(data)
        anomalous = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        if labels is not None:
            anomalous = labels == 1
        anomalies = torch.cat([self._anomalies, rows[anomalous]])
        others = torch.cat([self._others, rows[~anomalous]])
        if len(others):
            stage = Stage(self._net, settings, run, groups=self._groups())
            self._teach(stage, others, anomalies)
        self._anomalies = anomalies[-KEPT_ANOMALIES:]
        generator = torch.Generator().manual_seed(run.seed)
        kept = torch.randperm(len(others), generator=generator)[:KEPT_OTHERS]
        self._others = others[beside(kept.sort().values, others)]
        self._derive()

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        rows = self._rows(data)
        score = self._tau(rows)
        return Scores(score) if explain == "none" else self._explained(data, rows, score)

    def _explained(self, data: WindowBatch, rows: Tensor, score: Tensor) -> Scores:
        """Scores ``[B]`` of rows ``[B, D]`` with all that ``caps`` promise besides."""
        share = gradient_times_input(self._tau, rows)
        share = share.view(len(share), -1, self._input.width).sum(dim=1)
        fields = self._input.attribute(self._input.unflatten(share, data))
        return Scores(score, fields.sum(dim=-1), fields)

    # -- rows -------------------------------------------------------------------------------

    @property
    def _width(self) -> int:
        return self._input.width * (2 if self.ranked else 1)

    def _unlearned_ranks(self) -> nn.Module:
        ranks = Ranks(self._input.width) if self.ranked else nn.Identity()
        return ranks.to(self.device)

    def _rows(self, data: WindowBatch) -> Tensor:
        rows: Tensor = self._ranks(self._input.flatten(data))
        if not self.ranked or self._input.full(data):
            return rows
        return rows * self._input.real(data).repeat(1, 2)  # what is padding has no rank

    # -- files ------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        return {
            **self._input.state("input."),
            **module_state(self._ranks, "ranks."),
            **module_state(self._net, "net."),
            "anomalies": self._anomalies,
            "others": self._others,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._ranks = self._unlearned_ranks()
        load_module(self._ranks, state, "ranks.")
        self._anomalies, self._others = state["anomalies"], state["others"]
        self._net = self._build()
        load_module(self._net, state, "net.")
        self._derive()
