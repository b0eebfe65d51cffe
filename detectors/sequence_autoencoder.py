"""What autoencoders of sequences share: all but the network."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.loops.batches import split
from detectors.loops.deviance import Deviance
from detectors.loops.reconstruction import reconstruct
from detectors.loops.stage import Run, Stage, Training, gentle
from detectors.nets.heads import RebuildingNet
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores


class SequenceAutoencoder(Detector):
    """Learns to rebuild windows; scores the deviance of what it gets wrong, step by step.

    Subclasses provide the network, and a ``Config`` with ``pooling``.
    """

    @abstractmethod
    def _build(self) -> RebuildingNet:
        """Make the untrained network on the detector's device."""

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._net = self._build()
        self._net.learn_usual(data)
        self._deviance = self._learn(data, self.config, Run(self.seed, budget, self.report))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        run = Run.of_update(self.seed, budget, self.report)
        newer = self._learn(data, gentle(self.config), run)
        self._deviance = self._deviance.updated(newer)

    def _learn(self, data: WindowBatch, settings: Training, run: Run) -> Deviance:
        early, late = split(data)
        self._train(Stage(self._net, settings, run), early, late)
        deviance = Deviance.fit(
            self._net,
            late,
            self.config.pooling,
            batch=settings.batch,
            trim=settings.trim,
            by_position=False,
        )
        return deviance

    def _train(self, stage: Stage, early: WindowBatch, late: WindowBatch) -> None:
        """Train the network."""
        reconstruct(stage, early, late)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        guess = self._net(data)
        steps = self._deviance.steps(guess, data)
        score = self._deviance.pooling(steps, data.mask)
        if explain == "none":
            return Scores(score)
        return Scores(score, steps, self._deviance.fields(guess, data), guess.num)

    def _state(self) -> dict[str, Tensor]:
        return {**module_state(self._net, "net."), **self._deviance.state("deviance.")}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._deviance = Deviance.from_state(state, "deviance.", self.config.pooling)
        self._net = self._build()
        load_module(self._net, state, "net.")
