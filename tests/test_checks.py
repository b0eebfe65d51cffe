"""The checks of detectors accept a correct detector and reject each known way to be wrong."""

from dataclasses import replace
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from detectors import Budget, Capabilities, Detector, Scores, WindowBatch, as_batch
from detectors.batch import Windows
from detectors.checks import CheckError, checks_for
from detectors.checks.sources import sample
from detectors.checks.subject import WINDOWS, small
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
        self.spread = self.input(data)[data.mask].std(dim=0)


class Saturates(Correct):
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        return replace(scores, score=torch.exp(-(scores.score - 4.0).square()))


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


def failing(cls: type[Detector], name: str) -> list[str]:
    """Run the checks of that name over all data; the names of those that reject ``cls``."""
    found = []
    for check in checks_for(cls):
        if check.name.partition("[")[0] == name and not check.waived:
            try:
                check.run()
            except CheckError:
                found.append(check.name)
    return found


@pytest.mark.parametrize("check", checks_for(Correct), ids=lambda check: check.name)
def test_a_correct_detector_passes(check: Any) -> None:
    if check.waived:
        pytest.skip(f"waived: {check.waived}")
    check.run()


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Constant, "ranks_anomalies_higher"),
        (Flipped, "ranks_anomalies_higher"),
        (Saturates, "rises_with_the_anomaly"),
        (BatchNormalised, "batch_invariance"),
        (Positional, "batch_invariance"),
        (Positional, "permutation_equivariance"),
        (CountsPadding, "padding_length"),
        (LooksUnderTheMask, "hidden_values"),
        (WritesToItsInput, "input_untouched"),
        (KeepsTheCallersMemory, "nothing_shared"),
        (HandsOutItsState, "nothing_shared"),
        (LearnsWhileScoring, "scoring_changes_nothing"),
        (LeavesTrainingMode, "scoring_changes_nothing"),
        (Unseeded, "same_seed_same_scores"),
        (Continues, "same_seed_same_scores"),
        (SeedsTheWorld, "ambient_state_untouched"),
        (IgnoresItsSeed, "seed_matters"),
        (PeeksAtLabels, "labels_honest"),
        (ForgetsItsSpread, "round_trip"),
        (MakesUpItsSpread, "every_tensor_needed"),
        (RemembersEverything, "bounded_state"),
        (SharesBetweenInstances, "instances_independent"),
        (BlamesAtRandom, "blames_the_feature"),
        (BlamesBelowZero, "explanations"),
        (PromisesMore, "explanations"),
        (DividesByZero, "one_value_only"),
        (DividesByZero, "extreme_numbers"),
        (Undocumented, "documented"),
        (Unvalidated, "settings_validated"),
        (SaysUpdated, "incremental"),
        (WaivesWithoutReason, "capabilities_stated"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_known_mistake_is_rejected(cls: type[Detector], name: str) -> None:
    assert failing(cls, name)


def test_a_waived_check_is_listed_with_its_reason() -> None:
    class Waiving(Correct):
        caps = msgspec.structs.replace(
            CAPS,
            waived={"batch_invariance[series]": "looks at pairs", "round_trip": "is never saved"},
        )

    waived = {check.name: check.waived for check in checks_for(Waiving) if check.waived}
    waived = {name: reason for name, reason in waived.items() if "CUDA" not in reason}
    assert waived == {"batch_invariance[series]": "looks at pairs", "round_trip": "is never saved"}


def test_other_errors_are_not_taken_for_failed_checks() -> None:
    class Broken(Correct):
        def _score(self, data: WindowBatch, explain: Explain) -> Scores:
            msg = "broken"
            raise ZeroDivisionError(msg)

    with pytest.raises(ZeroDivisionError):
        failing(Broken, "batch_invariance")


def test_labels_are_asked_of_detectors_that_need_them() -> None:
    class Needy(Correct):
        caps = msgspec.structs.replace(CAPS, uses_labels=True, min_labels=2)

    assert not failing(Needy, "labels_honest")
    assert not failing(Needy, "same_seed_same_scores")


@pytest.mark.parametrize("name", ["record", "mixed", "series", "sequence", "events", "catrec"])
def test_small_data_is_well_formed(name: str) -> None:
    data = small(name)
    assert len(data) == WINDOWS
    assert not data.num[~data.mask].any()
    assert not data.cat[~data.mask].any()
    assert int(data.lengths.min()) >= 1
    for field, size in enumerate(data.vocab):
        assert int(data.cat[:, :, field].max()) < size


def test_sources_are_the_same_every_time_and_easy_enough() -> None:
    first = sample("SUBSPACE")
    sample.cache_clear()
    second = sample("SUBSPACE")
    assert torch.equal(first.train.num, second.train.num)
    assert len(first.train) == 2000
    assert len(first.normal) == len(first.anomalous) == 500


def test_labelled_anomalies_of_fewlabels_are_ten_of_one_kind() -> None:
    data = sample("FEWLABELS")
    assert data.labels is not None
    chosen = data.train.num[torch.from_numpy(data.labels == 1), 0]
    directions = chosen / chosen.norm(dim=1, keepdim=True)
    assert len(chosen) == 10
    assert float((directions @ directions.T).min()) > 0.99
