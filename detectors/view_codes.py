"""What detectors share that judge the codes of autoencoders, one for each view of a window."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.loops.attribution import nearest, path_gradient, spread_out
from detectors.loops.batches import evaluate, split
from detectors.loops.reconstruction import copy_rows
from detectors.loops.stage import Count, Run, Share, Stage, Training
from detectors.nets.autoencoder import ViewAutoencoders
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores


class ViewTraining(Training, frozen=True, kw_only=True):
    """Settings of every detector on codes of views, besides those of every training.

    Attributes
    ----------
    hidden, code
        Widths of each encoder's hidden layers and of its code.
    corrupt
        Share of the inputs that the autoencoders have to do without.
    weight_decay
        More than usual: codes then follow what varies most, and clusters do not drown in the rest.
    """

    hidden: tuple[Count, ...] = (64,)
    code: Count = 32
    corrupt: Share = 0.1
    weight_decay: Annotated[float, msgspec.Meta(ge=0.0)] = 3e-3


class ViewCodes(Detector):
    """Denoising autoencoders teach one code per view; subclasses judge the codes.

    Views of a series are the window itself and its differences from step to step; views of a record
    with numbers and categories are both together, and either of them.

    Explanations integrate the gradient of the score on the way to the window from the nearest of
    ``EXAMPLES`` windows of the fit.
    """

    chunk = 2048
    squash: Callable[[], nn.Module] = nn.Identity

    @abstractmethod
    def _learn_head(self, data: WindowBatch, run: Run) -> None:
        """Learn to judge the codes."""

    @abstractmethod
    def _judge(self, rows: Tensor, real: Tensor) -> Tensor:
        """Scores ``[B]`` of rows ``[B, D]``, of which ``real`` entries are no padding."""

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._net = self._build()
        run = Run(self.seed, budget, self.report)
        # half of a budget, lest nothing be left for what judges the codes
        stage = Stage(self._net, self.config, run, share=0.5)
        copy_rows(stage, *split(data), lambda part: self._beside(*self._rows(part)))
        self._learn_head(data, run)
        self._examples = self._rows(spread_out(data))[0]

    def _all_codes(self, data: WindowBatch) -> Tensor:
        """``[N, views, K]``."""
        return evaluate(lambda part: self._codes(*self._rows(part)), data, self.config.batch)

    # -- scoring ----------------------------------------------------------------------------

    def _rows(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Rows ``[B, D]``, and which of their entries are no padding."""
        return self._input.rows(data)

    def _views(self, rows: Tensor, real: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Rows of each view, and which of their entries are no padding."""
        shape, across = self._fitted(), self._input.columns
        if shape.steps > 1:
            moving = real[:, across:]  # padding stands on the right
            motion = (rows[:, across:] - rows[:, :-across]) * moving
            return [(rows, real), (motion, moving)]
        if shape.features and shape.vocab:
            parts = [part.tensor_split([shape.features], dim=1) for part in (rows, real)]
            return [(rows, real), *zip(*parts, strict=True)]
        return [(rows, real)]

    def _beside(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """All views beside each other."""
        views, their_real = zip(*self._views(rows, real), strict=True)
        return torch.cat(views, dim=1), torch.cat(their_real, dim=1)

    def _codes(self, rows: Tensor, real: Tensor) -> Tensor:
        """``[B, views, K]`` of rows ``[B, D]``."""
        return self._net.encode(self._beside(rows, real)[0])

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        score = self._judge(*self._rows(data))
        if explain == "none":
            return Scores(score)
        with torch.inference_mode(False):
            rows, real = self._rows(data)
        start = self._examples[nearest(rows, self._examples)] * real
        share = path_gradient(lambda point: self._judge(point, real), start, rows)
        return replace(self._input.explained(data, share.sum(dim=1), share), score=score)

    # -- files ------------------------------------------------------------------------------

    def _build(self) -> ViewAutoencoders:
        config = self.config
        nothing = torch.zeros(1, self._input.width)
        widths = [view.shape[1] for view, _ in self._views(nothing, nothing)]
        squash = type(self).squash
        net = ViewAutoencoders(widths, config.hidden, config.code, config.corrupt, squash)
        return net.to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **self._input.state("input."),
            **module_state(self._net, "net."),
            "examples": self._examples,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._net = self._build()
        load_module(self._net, state, "net.")
        self._examples = state["examples"]
