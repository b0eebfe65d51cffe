"""What deep clustering has in common: codes of a denoising autoencoder, clusters among them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Protocol

import msgspec
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.loops.batches import evaluate, split
from detectors.loops.clustering import Clusters
from detectors.loops.reconstruction import copy_rows
from detectors.loops.stage import Count, Run, Share, Stage, Training, Weight
from detectors.nets.autoencoder import CorruptedAutoencoder
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores


class Grouping(Protocol):
    """What codes are compared with: see :class:`detectors.loops.clustering.Clusters`."""

    @property
    def centres(self) -> Tensor:
        """``[K, Z]``."""

    def judge(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[B]`` of codes ``[B, Z]``, and to which cluster each belongs."""

    def floor(self) -> Tensor:
        """``[]``: a score that none can go below."""

    def absorb(self, codes: Tensor, horizon: float) -> Grouping:
        """Move on with newer codes."""

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything learned, as tensors whose names start with ``prefix``."""


class ClusteredTraining(Training, frozen=True, kw_only=True):
    """Settings of every deep clustering, besides those of every training.

    Attributes
    ----------
    hidden, code
        Widths of the encoder's hidden layers and of its code.
    clusters
        Number of centres.
    corrupt
        Share of the inputs that the autoencoder has to do without.
    clustering
        Weight of the clusters in the loss, beside the error of reconstruction.
    pretrain_epochs
        Epochs as an autoencoder.
    horizon
        Windows of a cluster that ``partial_fit`` lets the past weigh at most; smaller forgets
        faster.
    """

    hidden: tuple[Count, ...] = (64, 64, 128)
    code: Count = 10
    clusters: Count = 10
    corrupt: Share = 0.1
    clustering: Weight = 0.1
    pretrain_epochs: Count = 30
    horizon: Count = 10_000
    steps_per_epoch: Count = 140


class ClusteredCodes(Detector):
    """How far a window's code is from all clusters of codes; subclasses draw the codes together.

    A denoising autoencoder learns codes first. ``partial_fit`` moves the clusters like running
    means and leaves the networks as they are. Explanations and expected values compare a window
    with the decoded centre of its cluster.
    """

    chunk = 2048
    _clusters: Grouping

    @abstractmethod
    def _cluster(self, data: WindowBatch, run: Run) -> Grouping:
        """Train ``self._net`` further, and find the clusters among its codes."""

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._net = self._build()
        run = Run(self.seed, budget, self.report)
        settings = msgspec.structs.replace(self.config, epochs=self.config.pretrain_epochs)
        # half of a budget, lest nothing be left for the clusters
        copy_rows(Stage(self._net, settings, run, share=0.5), *split(data), self._rows)
        self._clusters = self._cluster(data, run)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        codes = self._all_codes(data)
        self._clusters = self._clusters.absorb(codes, self.config.horizon)
        self.report.losses = [float(self._clusters.judge(codes)[0].mean())]
        self.report.stopped = "epochs"

    # -- scoring ----------------------------------------------------------------------------

    def _rows(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Rows ``[B, D]``, and which of their entries are no padding."""
        return self._input.rows(data)

    def _codes(self, data: WindowBatch) -> Tensor:
        codes: Tensor = self._net.encoder(self._rows(data)[0])
        return codes

    def _all_codes(self, data: WindowBatch) -> Tensor:
        return evaluate(self._codes, data, self.config.batch)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        score, cluster = self._clusters.judge(self._codes(data))
        if explain == "none":
            return Scores(score)
        rows, real = self._rows(data)
        prototypes = self._net.decoder(self._clusters.centres)[cluster] * real
        above = (score - self._clusters.floor()).float().clamp(min=0)
        found = self._input.explained(data, above, (rows - prototypes).square())
        return replace(found, score=score, expected=self._input.numbers(prototypes, data))

    # -- files ------------------------------------------------------------------------------

    def _build(self) -> CorruptedAutoencoder:
        config = self.config
        net = CorruptedAutoencoder(self._input.width, config.hidden, config.code, config.corrupt)
        return net.to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **self._input.state("input."),
            **module_state(self._net, "net."),
            **self._clusters.state("clusters."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._clusters = self._read_clusters(state)
        self._net = self._build()
        load_module(self._net, state, "net.")

    def _read_clusters(self, state: dict[str, Tensor]) -> Grouping:
        return Clusters.from_state(state, "clusters.")
