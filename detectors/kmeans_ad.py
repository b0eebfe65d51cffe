"""Distance to the nearest of a few typical windows."""

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
from detectors.loops.clustering import cluster_sums, kmeans, nearest_mean
from detectors.scores import Explain, Scores


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
        x, real = self._entries(data)
        found = kmeans(x, real, self.config.clusters, self.config.trim)
        self._centres, self._weight = found.centres, found.weight
        self.report.trimmed = found.left_out

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        x, real = self._entries(data)
        _, index = nearest_mean(x, real, self._centres)
        sums, weight = cluster_sums(x, real, index, len(self._centres))
        past = self._weight.clamp(max=self.config.horizon)
        total = past + weight
        moved = (self._centres * past + sums) / total.clamp(min=1)
        self._centres = torch.where(weight > 0, moved, self._centres)
        self._weight = total

    def _entries(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """``[B, D]`` entries, and 1 where they are real."""
        rows, real = self._input.rows(data)
        return rows, real.float()

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        x, real = self._entries(data)
        score, index = nearest_mean(x, real, self._centres)
        if explain == "none":
            return Scores(score)
        expected = self._centres[index] * real
        found = self._input.explained(data, score, (x - expected).square())
        steps = self._input.unflatten(expected, data)
        return replace(found, expected=steps[:, :, : data.features])

    def _state(self) -> dict[str, Tensor]:
        return {
            "centres": self._centres,
            "weight": self._weight,
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._centres, self._weight = state["centres"], state["weight"]
        self._input = RecordInput.from_state(state, "input.", self._fitted())
