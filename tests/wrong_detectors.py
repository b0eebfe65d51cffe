"""A correct detector, and one for each known way to be wrong: what the checks are tested with."""

from dataclasses import replace
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from detectors import (
    Budget,
    Capabilities,
    Detector,
    FitReport,
    Scores,
    WindowBatch,
    as_batch,
)
from detectors.batch import Windows
from detectors.inputs import RecordInput
from detectors.scores import Explain

CAPS = Capabilities(
    name="correct",
    section="none",
    supervision="semi-supervised",
    kinds=("record", "series"),
    per_step=True,
    per_feature=True,
    gives_expected=True,
    cost="tiny",
    loop="statistics",
    sources=("ONESIDED",),
)


class Correct(Detector):
    """Mean squared distance of ``[B, T, E]`` columns from their mean, in standard deviations.

    Pearson 1900; it stands in no survey. The setting ``power`` bends the score.
    """

    caps = CAPS

    class Config(msgspec.Struct, frozen=True):
        power: float = 1.0

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self.input = RecordInput.fit(data)
        columns = self.input(data)[data.mask]
        self.mean = columns.mean(dim=0)
        self.spread = columns.std(dim=0, correction=0).clamp(min=0.1)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        gaps = ((self.input(data) - self.mean) / self.spread) * data.mask.unsqueeze(2)
        share = self.input.attribute(gaps.square())
        size = data.lengths.clamp(min=1) * self.input.columns
        score = (share.sum(dim=(1, 2)) / size) ** self.config.power
        if explain == "none":
            return Scores(score)
        expected = self.mean[: data.features].expand_as(data.num)
        return Scores(score, share.sum(dim=2), share, expected)

    def _state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "spread": self.spread, **self.input.state("input.")}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self.mean, self.spread = state["mean"], state["spread"]
        self.input = RecordInput.from_state(state, "input.", self._fitted())


class Constant(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        return replace(super()._score(data, explain), score=torch.ones(len(data)))


class Flipped(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        return replace(scores, score=-scores.score)


class BatchNormalised(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        return replace(scores, score=scores.score / (1e-3 + scores.score.mean()))


class Positional(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        return replace(scores, score=scores.score + 0.01 * torch.arange(len(data)))


class CountsPadding(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        return replace(scores, score=scores.score * data.lengths / data.steps)


class LooksUnderTheMask(Correct):
    def score(self, windows: Windows, *, explain: Explain = "none") -> Scores:
        scores = super().score(windows, explain=explain)
        return replace(scores, score=scores.score + as_batch(windows).num.abs().sum(dim=(1, 2)))


class WritesToItsInput(Correct):
    def score(self, windows: Windows, *, explain: Explain = "none") -> Scores:
        scores = super().score(windows, explain=explain)
        as_batch(windows).num.mul_(0.5)
        return scores


class KeepsTheCallersMemory(Correct):
    def fit(
        self, windows: Windows, labels: ArrayLike | None = None, *, budget: Budget | None = None
    ) -> Self:
        self.kept = as_batch(windows).num
        return super().fit(windows, labels, budget=budget)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        return replace(scores, score=scores.score + self.kept.mean().square())


class HandsOutItsState(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        if explain == "none":
            return super()._score(data, explain)
        if not hasattr(self, "buffer"):
            self.buffer = super()._score(data, explain).step
        return replace(super()._score(data, explain), step=self.buffer)


class LearnsWhileScoring(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        self.mean = 0.9 * self.mean + 0.1 * self.input(data).mean(dim=(0, 1))
        return scores


class LeavesTrainingMode(Correct):
    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._fit(data, labels, budget)
        self.net = nn.Dropout(0.0).eval()

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        self.net.train()
        return super()._score(data, explain)


class Unseeded(Correct):
    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._fit(data, labels, budget)
        self.mean = self.mean + 0.1 * float(np.random.default_rng().normal())


class SeedsTheWorld(Correct):
    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        np.random.seed(self.seed)
        super()._fit(data, labels, budget)


class IgnoresItsSeed(Correct):
    caps = msgspec.structs.replace(CAPS, loop="reconstruction")


class Continues(Correct):
    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        before = getattr(self, "mean", None)
        super()._fit(data, labels, budget)
        if before is not None:
            self.mean = (self.mean + before) / 2


class PeeksAtLabels(Correct):
    def fit(
        self, windows: Windows, labels: ArrayLike | None = None, *, budget: Budget | None = None
    ) -> Self:
        super().fit(windows, labels, budget=budget)
        if labels is not None:
            self.mean = self.mean + float(np.asarray(labels).mean())
        return self


class ReportsNothing(Correct):
    def fit(
        self, windows: Windows, labels: ArrayLike | None = None, *, budget: Budget | None = None
    ) -> Self:
        super().fit(windows, labels, budget=budget)
        self.report = FitReport()
        return self


class ForgetsItsSpread(Correct):
    def _state(self) -> dict[str, Tensor]:
        state = super()._state()
        del state["spread"]
        return state

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore({**state, "spread": torch.ones_like(state["mean"])})


class MakesUpItsSpread(Correct):
    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore({"spread": torch.ones(1), **state})


class RemembersEverything(Correct):
    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._fit(data, labels, budget)
        self.all = data.num

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "all": self.all}

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self.all = state["all"]


class SharesBetweenInstances(Correct):
    shared: ClassVar[dict[str, Tensor]] = {}

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._fit(data, labels, budget)
        self.shared["mean"] = self.mean

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        self.mean = self.shared["mean"]
        return super()._score(data, explain)


class BlamesAtRandom(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        if scores.feature is None:
            return scores
        return replace(scores, feature=scores.feature.roll(1, dims=2))


class BlamesBelowZero(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        return scores if scores.feature is None else replace(scores, feature=-scores.feature)


class PromisesMore(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        return replace(super()._score(data, explain), step=None)


class DividesByZero(Correct):
    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._fit(data, labels, budget)
        self.spread = self.input(data)[data.mask].std(dim=0, correction=0)


class Saturates(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        return replace(scores, score=torch.exp(-(scores.score - 4.0).square()))


class ScoresUnfitted(Correct):
    def score(self, windows: Windows, *, explain: Explain = "none") -> Scores:
        if self.shape is None:
            return Scores(torch.zeros(len(as_batch(windows))))
        return super().score(windows, explain=explain)


class CutsWhatDoesNotFit(Correct):
    caps = msgspec.structs.replace(CAPS, pads=False)

    def _accept(self, windows: Windows) -> WindowBatch:
        batch, shape = as_batch(windows), self._fitted()
        num, cat = batch.num[:, : shape.steps, : shape.features], batch.cat[:, : shape.steps]
        return WindowBatch(num, cat, batch.mask[:, : shape.steps], shape.vocab)


class ForgetsPartsOfNothing(Correct):
    def _empty(self, batch: WindowBatch, explain: Explain) -> Scores:
        return Scores(torch.zeros(0))


class StumblesOverMissing(Correct):
    def score(self, windows: Windows, *, explain: Explain = "none") -> Scores:
        scores = super().score(windows, explain=explain)
        missing = as_batch(windows).num.isnan().any(dim=2).any(dim=1)
        return replace(scores, score=scores.score.masked_fill(missing, float("nan")))


class MindsThePrecision(Correct):
    def score(self, windows: Windows, *, explain: Explain = "none") -> Scores:
        scores = super().score(windows, explain=explain)
        return replace(scores, score=scores.score + as_batch(windows).num.element_size())


class BlamesTheStepAfter(Correct):
    caps = msgspec.structs.replace(CAPS, sources=("WAVES",))

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        return scores if scores.step is None else replace(scores, step=scores.step.roll(1, dims=1))


class Undocumented(Correct):
    """Distance."""


class Unvalidated(Correct):
    class Config(msgspec.Struct):
        power: Any = 1.0


class SaysUpdated(Correct):
    caps = msgspec.structs.replace(CAPS, partial_fit="full")

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        pass


class WaivesWithoutReason(Correct):
    caps = msgspec.structs.replace(CAPS, waived={"batch_invariance": "hard"})
