"""What detectors share that train one network over the columns of windows by one loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.loops.attribution import from_nearest, path_gradient, spread_out
from detectors.loops.batches import held_out_loss, split
from detectors.loops.reconstruction import minimise
from detectors.loops.stage import Run, Stage, Training, gentle
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores


class NetworkDetector(Detector):
    """Trains a network; what scores need besides it is learned from held-out windows.

    Subclasses provide the network, its loss and ``_score``. New values are never shown in training.
    """

    _net: nn.Module

    @abstractmethod
    def _network(self) -> nn.Module:
        """Return a new network; ``self._input`` is fitted."""

    def _new_input(self, data: WindowBatch) -> RecordInput:
        """Choose how windows become columns."""
        return RecordInput.fit(data)

    @abstractmethod
    def _loss(self, data: WindowBatch) -> Tensor:
        """Training loss ``[B]``; chance comes from ``self._chance``."""

    def _held_out_loss(self, data: WindowBatch) -> Tensor:
        """Loss ``[B]`` that chooses among weights: free of chance."""
        return self._loss(data)

    def _pretrain(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        """Train, once in a fit, what the network builds on."""

    def _learn_usual(self, early: WindowBatch, late: WindowBatch) -> None:
        """Learn from a fit what scores need, with windows trained on and others."""

    def _update_usual(self, early: WindowBatch, late: WindowBatch) -> None:
        """Learn it from an update."""

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = self._new_input(data)
        self._net = self._network().to(self.device)
        early, late = split(data)
        run = Run(self.seed, budget, self.report)
        self._chance = torch.Generator().manual_seed(run.seed)
        self._pretrain(run, early, late)
        self._train(self.config, run, early, late)
        self._learn_usual(early, late)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        early, late = split(data)
        run = Run.of_update(self.seed, budget, self.report)
        self._chance = torch.Generator().manual_seed(run.seed)
        self._train(gentle(self.config), run, early, late)
        self._update_usual(early, late)

    def _train(self, settings: Training, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        minimise(
            Stage(self._net, settings, run),
            early,
            self._loss,
            lambda: held_out_loss(self._held_out_loss, late, settings),
            new_ids=False,
        )

    def _rows(self, data: WindowBatch) -> Tensor:
        """Windows ``[B, D]``, padded to the steps of the fit."""
        return self._input.flatten(data)

    def _real(self, data: WindowBatch) -> Tensor:
        """``[B, D]``: which entries are no padding."""
        return self._input.real(data)

    def _state(self) -> dict[str, Tensor]:
        return {**self._input.state("input."), **module_state(self._net, "net.")}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._net = self._network().to(self.device)
        load_module(self._net, state, "net.")


class ExplainedNetwork(NetworkDetector):
    """Explains a score by its gradient on the way from the nearest of some windows of the fit."""

    @abstractmethod
    def _score_columns(self, columns: Tensor, mask: Tensor) -> Tensor:
        """Score ``[B, T, E]`` and ``mask [B, T]``, ``[B]``."""

    def _shares(self, score: Callable[[Tensor], Tensor], start: Tensor, end: Tensor) -> Tensor:
        """Attribution ``[B, T, E]``, at least 0, on the way from ``start`` to ``end``."""
        return path_gradient(score, start, end)

    def _flat(self, columns: Tensor) -> Tensor:
        """Columns ``[B, T, E]`` as rows ``[B, D]``, padded to the steps of the fit."""
        missing = self._fitted().steps - columns.shape[1]
        return nn.functional.pad(columns, (0, 0, 0, missing)).flatten(1)

    def _learn_usual(self, early: WindowBatch, late: WindowBatch) -> None:
        self._examples = self._input(spread_out(early)).clone()

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        columns = self._input(data)
        score = self._score_columns(columns, data.mask)
        if explain == "none":
            return Scores(score)
        return self._explained(data, columns, score)

    def _explained(self, data: WindowBatch, columns: Tensor, score: Tensor) -> Scores:
        """Add to scores ``[B]`` what each step and field adds to them."""
        share = from_nearest(
            self._score_columns, columns, data.mask, self._examples, way=self._shares
        )
        feature = self._input.attribute(share)
        return Scores(score, feature.sum(dim=-1), feature)

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "examples": self._examples}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._examples = state["examples"]
        super()._restore(state)
