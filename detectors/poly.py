"""Local polynomials: how far each step of a series departs from the trend of the steps before."""

from __future__ import annotations

import functools
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.loops.moments import Moments
from detectors.loops.pooling import Pool, Pooling
from detectors.scores import Explain, Scores


class LocalPolynomial(Detector):
    """Error of predicting each step by a polynomial through the steps before it.

    To each column the polynomial of degree ``degree`` is fitted by least squares over the last
    ``context`` steps and continued by one. The vector of a step's errors is measured by its
    squared Mahalanobis distance, with the mean and covariance of errors at fit, and the distances
    of the steps are pooled into the score of the window.

    A prediction is linear in the steps before it with weights that depend on places alone: all
    predictions of a batch are one product with a triangular matrix. Steps with fewer than
    ``degree + 1`` others before them get a polynomial of the degree that these allow; the first
    step is not predicted and has distance 0.

    A step is blamed as far as a change of it alone explains all errors.

    Settings
    --------
    degree, context
        Of the polynomial, and steps that it is fitted to.
    pooling
        ``mean`` over the steps, ``max``, or ``both``: whichever is the more unusual.
    trim
        Share of the steps, those with the largest errors, that the covariance is learned
        without: for training data that holds anomalies.

    Shapes
    ------
    Windows ``[B, T, F + C]`` of any ``T``; state ``E^2``; ``T^2 E + T E^2`` multiply-adds a
    window.

    Notes
    -----
    What counts is local smoothness, and which columns err together. A column that is exchanged
    for another as smooth is seen only by the latter.

    References
    ----------
    Li, Ma and Mei 2007, *A unifying method for outlier and change detection from data streams
    based on local polynomial fitting*. Survey: Pang et al. 2020, section 5.1.3, as the linear
    ancestor of predictability modelling. Adaptations: one-step prediction from the steps before,
    whole vectors of errors instead of one series, a constant covariance of errors.
    """

    caps = Capabilities(
        name="poly",
        section="baseline: Li et al. 2007",
        supervision="unsupervised",
        kinds=("series",),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        cost="tiny",
        loop="statistics",
        sources=("WAVES",),
    )

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Settings; see the class."""

        degree: Annotated[int, msgspec.Meta(ge=0, le=8)] = 2
        context: Annotated[int, msgspec.Meta(ge=1)] = 8
        pooling: Pool = "both"
        trim: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0

    chunk = 2048

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        errors, _, predicted = self._errors(data)
        self._moments = Moments.fit(errors[predicted], self.config.trim)
        self._pooling = Pooling.fit(self.config.pooling, *self._distances(data))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        errors, _, predicted = self._errors(data)
        self._moments = self._moments.updated(Moments.fit(errors[predicted], self.config.trim))

    def _errors(self, data: WindowBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Errors and predictions ``[B, T, E]``; last ``[B, T]``, which steps are predicted."""
        x = self._input(data)
        weights = _weights(data.steps, self.config.context, self.config.degree).to(x.device)
        expected = torch.einsum("ts,bse->bte", weights, x)
        predicted = data.mask.clone()
        predicted[:, 0] = False
        return x - expected, expected, predicted

    def _distances(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Distances ``[B, T]`` of steps, 0 where there is no prediction, and the mask."""
        errors, _, predicted = self._errors(data)
        return self._moments.distance(errors).masked_fill(~predicted, 0.0), data.mask

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        errors, expected, predicted = self._errors(data)
        distances = self._moments.distance(errors).masked_fill(~predicted, 0.0)
        score = self._pooling(distances, data.mask)
        if explain == "none":
            return Scores(score)
        innovations = self._innovations(errors, predicted)
        distances = self._moments.distance(innovations)
        share = self._moments.shares(innovations)
        share = share / share.sum(dim=2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        found = self._input.explained(data, score, share * distances.unsqueeze(2))
        numbers = torch.where(predicted.unsqueeze(2), expected, self._input(data))
        numbers = numbers.masked_fill(~data.mask.unsqueeze(2), 0.0)[:, :, : data.features]
        return Scores(score, found.step, found.feature, numbers)

    def _innovations(self, errors: Tensor, predicted: Tensor) -> Tensor:
        """Project errors ``[B, T, E]`` on the pattern that a change of each step leaves in them.

        A change of step ``s`` alone shows in its own error and, through the weights, in those of
        the next ``context`` steps, even more strongly there for higher degrees. What the squared
        errors would fall by if the step were free is the square of this projection.
        """
        steps = errors.shape[1]
        pattern = torch.eye(steps) - _weights(steps, self.config.context, self.config.degree)
        pattern = pattern.to(errors.device)
        real = predicted.float()
        size = (real @ pattern.square()).clamp(min=torch.finfo(torch.float32).tiny).sqrt()
        found = torch.einsum("ts,bte->bse", pattern, errors * real.unsqueeze(2))
        return found / size.unsqueeze(2)

    def _state(self) -> dict[str, Tensor]:
        return {
            "usual": self._pooling.usual,
            **self._moments.state("errors."),
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._pooling = Pooling(self.config.pooling, state["usual"])
        self._moments = Moments.from_state(state, "errors.")
        self._input = RecordInput.from_state(state, "input.", self._fitted())


@functools.lru_cache(maxsize=64)
def _weights(steps: int, context: int, degree: int) -> Tensor:
    """``[T, T]``, strictly lower triangular: row ``t`` continues a polynomial to step ``t``.

    Read only: the result is kept.
    """
    weights = torch.zeros(steps, steps, dtype=torch.float64)
    for n in range(1, min(context, steps - 1) + 1):
        place = torch.arange(-n, 0, dtype=torch.float64).unsqueeze(1) / n
        powers = place ** torch.arange(min(degree, n - 1) + 1)
        row = torch.linalg.pinv(powers)[0]  # the polynomial's value at place 0
        rows = torch.tensor([n]) if n < context else torch.arange(n, steps)
        for shift in range(n):
            weights[rows, rows - n + shift] = row[shift]
    return weights.float()
