"""Lag-window principal components: how far a window lies from the ellipsoid of normal windows.

The baseline that every deep detector has to beat on its own data.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.scores import Explain, Scores

NOISE_FLOOR = 1e-3
"""Smallest variance, in squared robust sigmas, that a direction is given. Below it, float32 sums
of large terms that cancel would show up in the score; constant columns would divide by zero."""

FREE = 1e4
"""Factor on the variances of the components where only the reconstruction error counts."""


class PrincipalComponents(Detector):
    """Principal components of flattened windows, with a Gaussian for what they leave over.

    The windows ``[T, E]`` are flattened to vectors of ``D = T * E``. The first ``K`` components
    keep their variances, all other directions share one noise variance (probabilistic PCA), and

    ``score = (x - mean)' C^-1 (x - mean) / D``,

    about 1 for a normal window. With ``whiten=False`` the components cost nothing, and the score
    is the classical squared reconstruction error in units of the noise variance.

    With the Cholesky factor ``C = L L'`` the vector ``L^-1 (x - mean)`` holds the error of
    predicting each entry from the entries before it. Padding stands on the right, so leaving out
    its entries gives exactly the score of the shorter window under the same Gaussian; dividing
    by the number of real entries makes windows of all lengths comparable. It is also why a batch
    costs one matrix product.

    Attribution and expected values compare each entry with its prediction from all others.

    Settings
    --------
    variance
        Share of the variance that the components keep; chooses ``K``.
    components
        ``K`` itself, if set.
    whiten
        Whether the place inside the subspace counts too, not only the distance from it.
    horizon
        Windows that ``partial_fit`` lets the past weigh at most; smaller forgets faster.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit; state ``O(D^2)``; ``D^2``
    multiply-adds a window.

    Notes
    -----
    Scores are comparable between windows only as far as one Gaussian describes them: several
    separate modes of normal need ``knn``.

    References
    ----------
    Shyu et al. 2003, *A novel anomaly detection scheme based on principal component classifier*
    (major and minor components); Tipping and Bishop 1999, *Probabilistic principal component
    analysis* (section 3.2, the noise variance as the mean of the discarded eigenvalues). Survey:
    Pang et al. 2020, section 5.1.1, as the linear ancestor of the autoencoder. Adaptations: lag
    windows as vectors, marginal scores of padded windows, leave-one-out attribution.
    """

    caps = Capabilities(
        name="pca",
        section="baseline: Shyu et al. 2003",
        supervision="semi-supervised",
        kinds=("record", "series"),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="tiny",
        loop="statistics",
        sources=("SUBSPACE", "WAVES", "ONESIDED", "FEWLABELS"),
    )

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Settings; see the class."""

        variance: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.99
        components: Annotated[int, msgspec.Meta(ge=0)] | None = None
        whiten: bool = True
        horizon: Annotated[int, msgspec.Meta(ge=1)] = 100_000

    chunk = 2048  # intermediate results stay in the processor's cache: half again as fast as 8192

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        size = self._input.width
        self._count = data.num.new_zeros(data.steps, dtype=torch.float64)
        self._sum = data.num.new_zeros(size, dtype=torch.float64)
        self._products = data.num.new_zeros(size, size, dtype=torch.float64)
        self._add(data)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        fade = min(1.0, self.config.horizon / float(self._count.max().clamp(min=1)))
        for moment in (self._count, self._sum, self._products):
            moment.mul_(fade)
        self._add(data)

    def _add(self, data: WindowBatch) -> None:
        """Add the moments of ``data`` and derive mean and whitener from the new sums."""
        for part in data.chunks(self.chunk):
            x = self._input.flatten(part).double()
            self._count[: part.steps] += part.mask.sum(dim=0)
            self._sum += x.sum(dim=0)
            self._products += x.T @ x
        width = self._input.columns
        entries = self._count.clamp(min=1).repeat_interleave(width)
        mean = self._sum / entries
        # a pair of entries is real in as many windows as the later of the two
        covariance = self._products / torch.minimum(entries[:, None], entries[None]) - torch.outer(
            mean, mean
        )
        whitener = _whitener(self._model(covariance))
        self._mean, self._whitener = mean.float(), whitener.float()
        self._derive()

    def _model(self, covariance: Tensor) -> Tensor:
        """Principal components and isotropic noise in place of the sample covariance ``[D, D]``."""
        variances, directions = torch.linalg.eigh(covariance)
        variances = variances.clamp(min=0).flip(0)
        directions = directions.flip(1)
        kept = self.config.components
        if kept is None:
            kept = int((variances.cumsum(0) < self.config.variance * variances.sum()).sum()) + 1
        rest = variances[kept:]
        noise = max(float(rest.mean()) if len(rest) else 0.0, NOISE_FLOOR)
        variances[:kept] = variances[:kept].clamp(min=noise)
        if not self.config.whiten:
            variances[:kept] *= FREE
        variances[kept:] = noise
        return torch.mm(directions * variances, directions.T)

    def _derive(self) -> None:
        self._offset = -(self._mean @ self._whitener)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        x, real = self._input.rows(data)
        errors = torch.addmm(self._offset, x, self._whitener).masked_fill_(~real, 0.0)
        entries = data.lengths.clamp(min=1) * self._input.columns
        score = torch.linalg.vector_norm(errors, dim=1).square() / entries
        if explain == "none":
            return Scores(score)
        return self._explain(data, x, errors, score)

    def _explain(self, data: WindowBatch, x: Tensor, errors: Tensor, score: Tensor) -> Scores:
        """Score each entry by its standardised distance to the prediction from all others."""
        width = self._input.columns
        # rows of the precision matrix of a window of t steps, [D], by prefix sums over t
        diagonal = self._whitener.square().cumsum(dim=1)[:, width - 1 :: width].T
        precision = diagonal[(data.lengths - 1).clamp(min=0)]
        pull = errors @ self._whitener.T
        precision = precision.clamp(min=torch.finfo(torch.float32).tiny)
        found = self._input.explained(data, score, pull.square() / precision)
        steps = self._input.unflatten(x - pull / precision, data)[:, :, : data.features]
        return replace(found, expected=steps.masked_fill(~data.mask.unsqueeze(-1), 0.0))

    def _state(self) -> dict[str, Tensor]:
        return {
            "mean": self._mean,
            "whitener": self._whitener,
            "count": self._count,
            "sum": self._sum,
            "products": self._products,
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._mean, self._whitener = state["mean"], state["whitener"]
        self._count, self._sum = state["count"], state["sum"]
        self._products = state["products"]
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._derive()


def _whitener(covariance: Tensor) -> Tensor:
    """``W [D, D]`` such that ``x @ W`` predicts each entry from those before it, standardised."""
    factor = torch.linalg.cholesky(covariance)
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.T.contiguous()
