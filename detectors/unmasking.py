"""Unmasking: how easily the second half of a window is told from the first, and by what."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.loops.logistic import Halves, accuracy, separate
from detectors.scores import Explain, Scores


class Unmasking(Detector):
    """Accuracy with which classifiers tell the second half of a window from the first one.

    The first half of the steps is the reference, taken as normal; the second half is what the score
    is about. In the form ``unmasking``, a logistic regression is fitted that tells the two apart,
    its accuracy noted, and the features with the most positive and the most negative weights are
    dropped; after several ``loops`` of that, the score is the mean accuracy. Two halves of the same
    kind differ by chance in a few features and soon look alike; a change remains visible.

    In the form ``two-sample``, the score is a z-value: a classifier is fitted to every other step
    and tested on the ``n`` between. If both halves had the same distribution, the accuracy ``a``
    would have mean 1/2 and a variance of at most ``1 / 4n``; the score is ``(a - 1/2) 2 sqrt(n)``.

    Shapes
    ------
    Windows ``[B, T, F + C]`` of any ``T``: the last ``w`` steps of a key and the ``w`` before, with
    ``w`` of 10 to 50. Nothing is learned but the scale of the numbers and the tables of the
    categories; about ``loops T E (E + 60)`` multiply-adds a window for ``E`` columns.

    Notes
    -----
    A score is a function of its window alone: what it is compared with is inside the window. In
    return, it says nothing of changes before the window, and a key is first scored when a window
    has filled. Windows of one step have nothing to be compared with and score as if nothing had
    changed. With more features than steps, first accuracies are 1 whatever happens; the dropping of
    features and a strong ridge are there for that.

    Neighbouring steps of a series resemble each other, so that halves differ without any change:
    scores are to be compared with other scores of the same key.

    Explanations give each entry by how much it speaks for its own half, summed over the classifiers
    and scaled to add up to the score.

    Adaptations: both blocks are halves of one window; features are the entries of a step instead
    of those of an image network; the loops and the features dropped in each are as many as the
    features allow; either half counts alike where one is a step longer; the pool of older steps to
    compare with is left out.

    References
    ----------
    Ionescu et al. 2017, *Unmasking the abnormal events in video*; Liu et al. 2018, *Classifier
    two-sample test for video anomaly detections*. Survey: Pang et al. 2020, section 4.
    """

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings.

        Attributes
        ----------
        form
            ``unmasking`` or ``two-sample``.
        loops
            Most classifiers; no more than half of the features.
        strength
            Weight of the steps against the ridge of the classifiers.
        """

        form: Literal["unmasking", "two-sample"] = "unmasking"
        loops: Annotated[int, msgspec.Meta(ge=1)] = 10
        strength: Annotated[float, msgspec.Meta(gt=0.0)] = 0.1

    caps = Capabilities(
        name="unmasking",
        section="4",
        supervision="unsupervised",
        kinds=("series",),
        per_step=True,
        per_feature=True,
        cost="iterative",
        loop="statistics",
        sources=("BLOCKS",),
        waived={
            "rises_with_the_anomaly": "the score is about halves of a window: one number that "
            "moves away from the rest of its half makes the halves no easier to tell apart"
        },
    )
    chunk = 512  # the curvatures of a chunk stay small

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        halves = self._halves(data)
        score, share = self._unmask(halves) if self._unmasks() else self._test(halves)
        if explain == "none":
            return Scores(score)
        found = self._input.explained(data, score.float().clamp(min=0), share.float())
        return replace(found, score=score)

    def _unmasks(self) -> bool:
        return bool(self.config.form == "unmasking")

    def _halves(self, data: WindowBatch) -> Halves:
        """Centre the steps around the mean of their window, in float64."""
        real, lengths = data.mask.unsqueeze(2), data.lengths.unsqueeze(1)
        x = self._input(data).double() * real
        x = (x - x.sum(dim=1, keepdim=True) / lengths.clamp(min=1).unsqueeze(2)) * real
        second = torch.arange(data.steps, device=x.device) >= lengths // 2
        return Halves(x, torch.where(second, 1.0, -1.0).double() * data.mask)

    def _unmask(self, halves: Halves) -> tuple[Tensor, Tensor]:
        """Mean accuracies ``[B]``, and the shares ``[B, T, E]`` of the entries in them."""
        columns = halves.x.shape[2]
        loops = max(1, min(self.config.loops, columns // 2))
        drop = max(1, columns // (2 * loops))
        kept = torch.ones_like(halves.x[:, 0], dtype=torch.bool)
        total, share = torch.zeros_like(halves.x[:, 0, 0]), torch.zeros_like(halves.x)
        for _ in range(loops):
            left = Halves(halves.x * kept.unsqueeze(1), halves.sign)
            weights, constant = separate(left, self.config.strength)
            total = total + accuracy(left, weights, constant)
            share = share + _evidence(left, weights)
            for direction in (1.0, -1.0):
                ranked = (direction * weights).masked_fill(~kept, -torch.inf)
                kept = kept.scatter(1, ranked.topk(min(drop, columns), dim=1).indices, False)
        return total / loops, share

    def _test(self, halves: Halves) -> tuple[Tensor, Tensor]:
        """Values ``[B]`` of a standard normal if nothing changed, and the shares of the entries."""
        learned = torch.arange(halves.sign.shape[1], device=halves.x.device) % 2 == 0
        weights, constant = separate(halves.only(learned), self.config.strength)
        held_out = halves.only(~learned)
        steps = (held_out.sign != 0).sum(dim=1)
        excess = accuracy(held_out, weights, constant) - 0.5
        return excess * 2 * steps.double().sqrt(), _evidence(halves, weights)

    def _state(self) -> dict[str, Tensor]:
        return self._input.state("input.")

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = RecordInput.from_state(state, "input.", self._fitted())


def _evidence(halves: Halves, weights: Tensor) -> Tensor:
    """``[B, T, E]``: how far each entry moves its step to its own side, where it does."""
    return (halves.sign.unsqueeze(2) * halves.x * weights.unsqueeze(1)).clamp(min=0)
