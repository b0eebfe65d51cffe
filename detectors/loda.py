"""Sparse random projections, each with a histogram: weak detectors that are strong together."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.scores import Explain, Scores

LEAST_SPAN = 1.0
"""Least range of a histogram, in robust sigmas, for projections that are constant at fit."""

MARGIN = 0.25
"""Room on both sides of a histogram for later updates, as a share of the range at fit."""

LEAST_VARIANCE = 1e-4
"""Of log probabilities in the test of a feature; below, rounding would decide it."""


class Loda(Detector):
    """Mean negative log probability of a window under histograms of random projections.

    Each of the ``K`` projections ``w`` has ``ceil(sqrt(D))`` normal weights, on columns drawn at
    random, and a histogram of ``w . x`` over normal windows. The score is
    ``-1/K sum_i log p_i(w_i . x)``.

    A column is blamed as far as projections that use it find the window less likely than those
    that do not: by the two-sample t statistic of their negative log probabilities, where it is
    positive.

    Settings
    --------
    projections, bins
        ``K``, and bins of each histogram, all of one width.
    horizon
        Windows that ``partial_fit`` lets the past weigh at most; smaller forgets faster.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D = T * E``; state
    ``K * (D + bins)``; ``K * D`` multiply-adds a window.

    Notes
    -----
    The ends of the histograms stay where the fit put them. Further out scores no longer grow.
    A column is in ``K / sqrt(D)`` projections: among hundreds of columns its blame is noisy, unless
    ``projections`` are raised.

    References
    ----------
    Pevny 2016, *Loda: lightweight on-line detector of anomalies* (histograms of sparse
    projections, their explanation by t statistics). No detector of the survey (Pang et al. 2020);
    as an ensemble over random subspaces it belongs to section 5.2. Adaptations: a fixed number of
    bins, counts start at 1/2, log probabilities are interpolated between the centres of bins, so
    that a score does not hang on rounding; entries under padding are read as medians.
    """

    caps = Capabilities(
        name="loda",
        section="baseline: Pevny 2016",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="statistics",
        sources=("CLUSTERS", "ONESIDED", "SUBSPACE"),
    )

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Settings; see the class."""

        projections: Annotated[int, msgspec.Meta(ge=2)] = 500
        bins: Annotated[int, msgspec.Meta(ge=2)] = 32
        horizon: Annotated[int, msgspec.Meta(ge=1)] = 100_000

    chunk = 1024

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._weights = _sparse(self.config.projections, self._input.width).to(data.num.device)
        z = torch.cat([self._project(part) for part in data.chunks(self.chunk)])
        low, high = z.amin(dim=0), z.amax(dim=0)
        span = (high - low).clamp(min=LEAST_SPAN)
        self._width = span * (1 + 2 * MARGIN) / self.config.bins
        self._low = (low + high - span * (1 + 2 * MARGIN)) / 2
        self._counts = self._histogram(z)
        self._derive()

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._counts *= min(1.0, self.config.horizon / float(self._counts[0].sum().clamp(min=1)))
        for part in data.chunks(self.chunk):
            self._counts += self._histogram(self._project(part))
        self._derive()

    def _project(self, data: WindowBatch) -> Tensor:
        """``[B, K]``."""
        return self._input.flatten(data) @ self._weights.T

    def _histogram(self, z: Tensor) -> Tensor:
        """Count projections ``[N, K]`` in bins, ``[K, bins]``; the outer bins are open."""
        bins = self.config.bins
        index = ((z - self._low) / self._width).long().clamp(0, bins - 1)
        index += torch.arange(z.shape[1], device=z.device) * bins
        counts = torch.bincount(index.flatten(), minlength=z.shape[1] * bins)
        return counts.view(-1, bins).double()

    def _derive(self) -> None:
        total = self._counts.sum(dim=1, keepdim=True) + 0.5 * self.config.bins
        self._surprise = -torch.log((self._counts + 0.5) / total).float()
        self._uses = (self._weights != 0).float()

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        bins = self.config.bins
        place = ((self._project(data) - self._low) / self._width - 0.5).clamp(0, bins - 1)
        before = place.long().clamp(max=bins - 2)
        first = before + torch.arange(len(self._weights), device=place.device) * bins
        table = self._surprise.view(-1)
        surprise = torch.lerp(table[first], table[first + 1], place - before)
        score = surprise.mean(dim=1)
        if explain == "none":
            return Scores(score)
        return self._input.explained(data, score, self._blame(surprise))

    def _blame(self, surprise: Tensor) -> Tensor:
        """Student's t ``[B, D]`` of projections ``[B, K]`` with a column against those without."""
        value = surprise - surprise.mean(dim=1, keepdim=True)  # small sums do not cancel
        members, n = len(self._uses), self._uses.sum(dim=0)
        sums, squares = value @ self._uses, value.square() @ self._uses
        spread = value.square().sum(dim=1, keepdim=True)

        def moments(total: Tensor, square: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
            mean = total / count.clamp(min=1)
            variance = (square - count * mean.square()) / (count - 1).clamp(min=1)
            return mean, variance.clamp(min=LEAST_VARIANCE) / count.clamp(min=1)

        mean, error = moments(sums, squares, n)
        other, other_error = moments(-sums, spread - squares, members - n)
        both = (n > 0) & (n < members)
        return torch.where(both, (mean - other) / (error + other_error).sqrt(), 0.0)

    def _state(self) -> dict[str, Tensor]:
        return {
            "weights": self._weights,
            "low": self._low,
            "width": self._width,
            "counts": self._counts,
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._weights, self._counts = state["weights"], state["counts"]
        self._low, self._width = state["low"], state["width"]
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._derive()


def _sparse(projections: int, columns: int) -> Tensor:
    """``[K, D]`` with ``ceil(sqrt(D))`` normal weights in each row, the rest 0."""
    used = math.ceil(math.sqrt(columns))
    chosen = torch.rand(projections, columns).topk(used, dim=1).indices
    weights = torch.zeros(projections, columns)
    return weights.scatter_(1, chosen, torch.randn(projections, used))
