"""What detectors share whose judge is the score: how little it takes a window for a real one."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import softplus

from detectors.adversarial import AdversarialDetector, Found
from detectors.batch import WindowBatch
from detectors.detector import Budget
from detectors.loops.attribution import nearest, path_gradient, spread_out
from detectors.loops.stage import Run

REACH = 3.0
"""Distance from the middle of the box, in half boxes, beyond which the judge is not asked. Makers
leave nothing out there that could teach it, and all of it is as abnormal as what lies before it."""


class JudgeDetector(AdversarialDetector):
    """Surprise ``-log D(x)`` of a judge that has learned where normal windows end.

    Explanations integrate the gradient of the score on the way to the window from the nearest of
    some windows of the fit. ``partial_fit`` teaches the judge alone, the first of the players. A
    judge that grows sure is not started over: it is meant to be firm on normal windows, and weights
    with which it no longer tells them from synthetic ones around them are not kept.
    """

    chunk = 8192  # to the one small network a pass costs more than what leaves the cache

    @abstractmethod
    def _logits(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to the judge's log-odds ``[B]`` that they are real."""

    def _fit_rows(self, data: WindowBatch, run: Run) -> None:
        super()._fit_rows(data, run)
        self._examples = self._input(spread_out(data))[0].clamp(-REACH, REACH)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._teach_judge(data, budget)

    def _examine(self, rows: Tensor, real: Tensor, *, explain: bool) -> Found:
        seen = rows.clamp_(-REACH, REACH)
        score = self._surprise(seen)
        if not explain:
            return Found(score, rows)
        start = self._examples[nearest(seen, self._examples, real)] * real
        return Found(score, path_gradient(self._surprise, start, seen))

    def _surprise(self, rows: Tensor) -> Tensor:
        return softplus(-self._logits(rows))

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "examples": self._examples}

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self._examples = state["examples"]


def centred_radius(rows: Tensor) -> Tensor:
    """``[]``: mean distance of rows ``[B, D]`` from their mean."""
    radii: Tensor = torch.linalg.vector_norm(rows - rows.mean(dim=0), dim=1)
    return radii.mean()
