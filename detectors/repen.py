"""REPEN: codes in which random subsamples show better who has no neighbours."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget
from detectors.few_labels import FewLabels
from detectors.loops.attribution import path_gradient
from detectors.loops.neighbours import (
    SAMPLES,
    SIZE,
    draw_samples,
    mean_nearest,
    nearest_in_samples,
    sample_distances,
)
from detectors.loops.stage import Count, Positive, Stage, Training
from detectors.loops.triplets import Sampler, separate, typical_distance
from detectors.nets.mlp import mlp
from detectors.scores import Scores
from schemas.errors import LabelsError


class Repen(FewLabels):
    """Mean distance of a window's code to its nearest neighbours in random subsamples of codes.

    The same measure on the windows themselves tells candidate outliers from inliers: those more
    than ``sqrt(3)`` deviations above the mean, or the ten highest. An encoder ``phi`` then learns
    from triplets of two inliers ``q``, ``p`` and an outlier ``n`` that the outlier be the farther
    one, ``max(0, m - (||phi(q) - phi(n)||² - ||phi(q) - phi(p)||²))``. Outliers are drawn in
    proportion to their measure; where anomalies are labelled, every second one is one of them.
    ``partial_fit`` measures new and remembered windows anew, goes on from the current weights and
    draws other references.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D`` columns; about
    ``20 D + 8,000`` multiply-adds a window.

    Notes
    -----
    Training confirms what the first measure gets wrong, and need not beat it: where large normal
    windows are its candidates, codes stretch along them, and anomalies in other directions sink.
    Labels counter that. Among hundreds of columns of noise, twenty units lose what the first
    measure still sees. Compare with ``knn``, which measures the windows themselves.

    Adaptations: windows are flattened after padding, categories become columns, inputs are robustly
    scaled; Adam instead of Adadelta; labelled normals count as unlabelled. The margin is relative
    to distances before training, since codes need only grow to satisfy a fixed one, and it is
    small: the larger it is, the more codes stretch.

    Explanations: ``expected`` is the mean of the nearest remembered windows, one of each subsample;
    the score is shared out by its gradient on the way from there to the window.

    References
    ----------
    Pang et al. 2018, *Learning representations of ultrahigh-dimensional data for random
    distance-based outlier detection*; Pang et al. 2015, *LeSiNN* (nearest neighbours in
    subsamples). Survey: Pang et al. 2020, section 5.2.1, equations 24-25.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden
            Widths of the layers of the encoder.
        margin
            By how much squared distances to outliers are to exceed those to inliers, in median
            squared distances before training.
        """

        hidden: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (20,)
        margin: Positive = 0.3
        epochs: Count = 30
        steps_per_epoch: Count = 20
        batch: Annotated[int, msgspec.Meta(ge=2)] = 256

    caps = Capabilities(
        name="repen",
        section="5.2.1",
        supervision="unsupervised",
        kinds=("record", "series"),
        uses_labels=True,
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="tiny",
        loop="deviation",
        sources=("CLUSTERS", "FEWLABELS"),
    )

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._unit = torch.zeros((), device=self.device)
        super()._fit(data, labels, budget)

    def _build(self) -> nn.Sequential:
        return mlp([self._input.width, *self.config.hidden]).append(nn.ReLU()).to(self.device)

    def _teach(self, stage: Stage, others: Tensor, anomalies: Tensor) -> None:
        with torch.no_grad():
            sampler = Sampler(others, nearest_in_samples(others), anomalies)
            if self._unit == 0:  # only before training: updates would raise it again and again
                self._unit = typical_distance(self._net(others))
        if len(sampler):
            separate(stage, sampler, self.config.margin * self._unit, self._net)

    def _derive(self) -> None:
        """Draw the references among what is remembered; without any, nothing could be scored."""
        if len(self._others) == 0:
            msg = "repen: every window is a labelled anomaly; add windows that are not"
            raise LabelsError(msg)
        generator = torch.Generator().manual_seed(self.seed)
        chosen = draw_samples(len(self._others), generator)
        self._examples = self._others[chosen.to(self._others.device)]
        with torch.no_grad():
            self._references = self._net(self._examples)

    def _tau(self, rows: Tensor) -> Tensor:
        return mean_nearest(self._net(rows), self._references)

    def _explained(self, data: WindowBatch, rows: Tensor, score: Tensor) -> Scores:
        nearest = sample_distances(self._net(rows), self._references).argmin(dim=2)
        nearest += SIZE * torch.arange(SAMPLES, device=nearest.device)
        weight = rows.new_zeros((len(rows), SAMPLES * SIZE)).scatter_(1, nearest, 1 / SAMPLES)
        usual = weight @ self._examples
        scores = self._input.explained(data, score, path_gradient(self._tau, usual, rows))
        expected = self._input.numbers(usual, data)
        expected = expected.masked_fill(~data.mask.unsqueeze(-1), 0.0)
        return Scores(scores.score, scores.step, scores.feature, expected)

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "unit": self._unit}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._unit = state["unit"]
        super()._restore(state)
