"""Distance to the nearest of a few typical windows."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.scores import Explain, Scores

ROUNDS = 50
"""Most rounds of Lloyd's algorithm; it nearly always comes to rest before."""


class KMeans(Detector):
    """Distance of a window to the nearest of ``clusters`` means.

    A window is itself the sub-sequence that the method clusters. The distance is the root mean
    square difference over its real entries, so that windows of all lengths are comparable; a
    mean's entry is that of the windows that reach so far.

    Settings
    --------
    clusters
        Number of means.
    trim
        Share of the windows, the farthest ones, that the means are computed without: for
        training data that holds anomalies.
    horizon
        Windows of a cluster that ``partial_fit`` lets the past weigh at most; smaller forgets
        faster.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D = T * E``; state
    ``clusters * D``; ``clusters * D`` multiply-adds a window.

    Notes
    -----
    Windows that differ by a shift in time alone count as different: means have to cover all
    phases.

    References
    ----------
    Schmidl, Wenig and Papenbrock 2022, *Anomaly detection in time series* (k-means; windows and
    20 clusters); Yairi et al. 2001, *Fault detection by mining association rules from
    house-keeping data* (distance to the nearest cluster). Arthur and Vassilvitskii 2007,
    *k-means++* (the start). Survey: Pang et al. 2020, section 5.2.3, as the classical form of
    clustering-based measures. Adaptations: distances over real entries, trimming, running means
    in updates.
    """

    caps = Capabilities(
        name="kmeans_ad",
        section="baseline: Schmidl et al. 2022",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="tiny",
        loop="statistics",
        sources=("CLUSTERS", "WAVES", "SUBSPACE", "ONESIDED"),
    )

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Settings; see the class."""

        clusters: Annotated[int, msgspec.Meta(ge=1)] = 20
        trim: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
        horizon: Annotated[int, msgspec.Meta(ge=1)] = 10_000

    chunk = 2048

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._steps = data.steps
        x, real = self._entries(data)
        self._centres = self._start(x, real)
        kept = torch.arange(len(x), device=x.device)
        nearest = torch.full_like(kept, -1)
        for _ in range(ROUNDS):
            distance, index = self._nearest(x, real)
            if torch.equal(index, nearest):
                break
            nearest = index
            kept = distance.argsort(stable=True)[: len(x) - int(self.config.trim * len(x))]
            sums, weight = self._sums(x[kept], real[kept], index[kept])
            self._centres = torch.where(weight > 0, sums / weight.clamp(min=1), self._centres)
            self._weight = weight
        self.report.trimmed = len(x) - len(kept)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        x, real = self._entries(data)
        _, index = self._nearest(x, real)
        sums, weight = self._sums(x, real, index)
        past = self._weight.clamp(max=self.config.horizon)
        total = past + weight
        moved = (self._centres * past + sums) / total.clamp(min=1)
        self._centres = torch.where(weight > 0, moved, self._centres)
        self._weight = total

    def _entries(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """``[B, D]`` entries, and 1 where they are real."""
        mask = torch.nn.functional.pad(data.mask, (0, self._steps - data.steps))
        real = mask.repeat_interleave(self._input.columns, dim=1)
        return self._input.flatten(data, self._steps), real.float()

    def _start(self, x: Tensor, real: Tensor) -> Tensor:
        """Draw ``[K, D]`` windows far from each other (k-means++)."""
        chosen = [torch.randint(len(x), ()).to(x.device)]
        closest = x.new_full((len(x),), torch.inf)
        for _ in range(min(self.config.clusters, len(x)) - 1):
            gap = (x - x[chosen[-1]]).square().mul_(real).sum(dim=1)
            closest = torch.minimum(closest, gap / real.sum(dim=1).clamp(min=1))
            chance = closest.double().cumsum(dim=0)
            draw = (torch.rand((), dtype=torch.float64).to(x.device) * chance[-1]).unsqueeze(0)
            chosen.append(torch.searchsorted(chance, draw)[0].clamp(max=len(x) - 1))
        return x[torch.stack(chosen)]

    def _nearest(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Distance ``[B]`` to the nearest mean, and which it is.

        The products only find it; its distance is then taken directly, because ``|x|^2 - 2 x c
        + |c|^2`` cancels.
        """
        squares = real @ self._centres.square().T - 2 * x @ self._centres.T
        index = squares.argmin(dim=1)
        gap = (x - self._centres[index]).square().mul_(real).sum(dim=1)
        return (gap / real.sum(dim=1).clamp(min=1)).sqrt(), index

    def _sums(self, x: Tensor, real: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums and counts ``[K, D]`` of the real entries of each cluster."""
        sums = torch.zeros_like(self._centres).index_add_(0, index, x)
        return sums, torch.zeros_like(self._centres).index_add_(0, index, real)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        x, real = self._entries(data)
        score, index = self._nearest(x, real)
        if explain == "none":
            return Scores(score)
        expected = self._centres[index] * real
        found = self._input.explained(data, score, (x - expected).square())
        numbers = expected.view(len(data), self._steps, -1)[:, : data.steps, : data.features]
        return Scores(found.score, found.step, found.feature, numbers)

    def _state(self) -> dict[str, Tensor]:
        return {
            "centres": self._centres,
            "weight": self._weight,
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        shape = self._fitted()
        self._centres, self._weight = state["centres"], state["weight"]
        self._input = RecordInput.from_state(state, "input.", shape)
        self._steps = shape.steps
