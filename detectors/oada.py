"""Clusters of codes, each with a classifier for which all other clusters are dummy anomalies."""

from __future__ import annotations

from typing import Literal

import msgspec
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.loops.dummies import Assigned, find_clusters, tell_apart
from detectors.loops.fourier import FourierFeatures
from detectors.loops.stage import Count, Positive, Run, Stage
from detectors.nets.modules import load_module, module_state
from detectors.view_codes import ViewCodes, ViewTraining

ENOUGH = 0.95
"""Accuracy on held-out windows below which fewer clusters are tried: they split what is one."""

FEWER = 0.75
"""Share of the clusters in the next trial."""


class DummyAnomalies(ViewCodes):
    """Score ``-max_i g_i(z)``: a window that belongs to no cluster of codes is anomalous.

    Denoising autoencoders teach one code per view of a window; ``z`` are all of them, standardised.
    k-means finds clusters among normal codes. A linear classifier ``g_i`` then learns, for each
    cluster, to tell its members from those of all others, which stand in for anomalies, by the
    hinge loss ``sum_i max(0, 1 - y_i g_i)``. With the head ``fourier`` it is linear in random
    Fourier features of ``z``, so that nothing far from all codes can belong.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened; about ``128 D + 20,000`` multiply-adds a window for ``D`` columns of all views.

    Notes
    -----
    Half-spaces of the head ``linear`` are unbounded: where codes are few, what is far away on the
    right side looks normal. Codes do not see what the encoders discard. Training data is taken as
    normal: anomalies that resemble each other get a cluster of their own.

    Explanations integrate the gradient of the score on the way to the window from the nearest of
    ``EXAMPLES`` windows of the fit.

    Adaptations: views are a window and its differences, or numbers, categories and both, in place
    of crops of objects and their gradients over time; dense encoders; random Fourier features; the
    number of clusters falls until the classifiers are right on held-out windows; the classifiers
    are trained by Adam. Scores are not smoothed over time.

    References
    ----------
    Ionescu et al. 2019, *Object-centric auto-encoders and dummy anomalies for abnormal event
    detection in video*; Rahimi and Recht 2007, *Random features for large-scale kernel machines*.
    Survey: Pang et al. 2020, section 4.
    """

    class Config(ViewTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every detector on views.

        Attributes
        ----------
        clusters
            Most clusters.
        head
            ``fourier``, or ``linear`` for codes of many numbers.
        frequencies, width
            Random Fourier features, and the width of their kernel in median distances of codes.
        slack
            Weight of the hinge losses against that of the squared weights, ``C`` of a support
            vector machine.
        head_epochs, head_rate
            Training of the classifiers.
        """

        clusters: Count = 10
        head: Literal["fourier", "linear"] = "fourier"
        frequencies: Count = 256
        width: Positive = 0.5
        slack: Positive = 1.0
        head_epochs: Count = 30
        head_rate: Positive = 0.05

    caps = Capabilities(
        name="oada",
        section="4",
        supervision="semi-supervised",
        kinds=("record", "series"),
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="reconstruction",
        sources=("CLUSTERS",),
    )

    def _learn_head(self, data: WindowBatch, run: Run) -> None:
        config, codes = self.config, self._all_codes(data).flatten(1)
        self._mean = codes.mean(dim=0)
        self._scale = codes.std(dim=0, correction=0).clamp(min=1e-3)
        codes = (codes - self._mean) / self._scale
        self._fourier = FourierFeatures.fit(codes, config.frequencies, config.width)
        features = self._features(codes)
        head = {"epochs": config.head_epochs, "learning_rate": config.head_rate}
        # the windows with the largest losses are what a boundary rests on
        settings = msgspec.structs.replace(config, **head, weight_decay=0.0, trim=0.0)
        clusters, share = config.clusters, 0.5
        while True:
            share = (1 + share) / 2  # of the budget: each trial may use half of what is left
            cluster = find_clusters(codes, clusters)
            found = int(cluster.max()) + 1
            self._head = nn.Linear(features.shape[1], found).to(self.device)
            stage = Stage(self._head, settings, run, share)
            right = tell_apart(stage, self._head, Assigned(features, cluster), config.slack)
            if right >= ENOUGH or found <= 2 or run.spent((1 + share) / 2):
                return
            clusters = max(2, int(FEWER * found))

    def _features(self, codes: Tensor) -> Tensor:
        return self._fourier(codes) if self.config.head == "fourier" else codes

    def _judge(self, rows: Tensor, real: Tensor) -> Tensor:
        codes = (self._codes(rows, real).flatten(1) - self._mean) / self._scale
        outputs: Tensor = self._head(self._features(codes))
        return -outputs.amax(dim=1)

    def _state(self) -> dict[str, Tensor]:
        return {
            **super()._state(),
            **module_state(self._head, "head."),
            "mean": self._mean,
            "scale": self._scale,
            "frequencies": self._fourier.frequencies,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self._mean, self._scale = state["mean"], state["scale"]
        self._fourier = FourierFeatures(state["frequencies"])
        clusters, features = state["head.weight"].shape
        self._head = nn.Linear(features, clusters).to(self.device)
        load_module(self._head, state, "head.")
