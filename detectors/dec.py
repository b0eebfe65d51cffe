"""Deep embedded clustering: a window whose code is far from all clusters of codes is anomalous."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.loops.clustering import (
    Assigned,
    divergence,
    kmeans,
    sharpen_clusters,
    soft_assignment,
)
from detectors.loops.training import (
    Count,
    Run,
    Share,
    Stage,
    Training,
    evaluate,
    held_out_loss,
    minibatches,
    split,
    train,
)
from detectors.nets.mlp import mlp
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores

FLOOR = 1e-2
"""Least spread of a cluster as a share of the mean spread, lest a cluster of equal windows call all
others anomalous."""

LEAST_SPREAD = 1e-6
"""Least spread of all: that of rounding errors."""

Weight = Annotated[float, msgspec.Meta(ge=0.0)]


class ClusterNet(nn.Module):
    """Autoencoder with cluster centres among its codes.

    Parameters
    ----------
    columns, hidden, code
        Widths of the input, of the encoder's hidden layers (mirrored by the decoder), and the code.
    clusters
        Number of centres.
    corrupt
        Share of the inputs that the autoencoder has to do without in training.
    """

    def __init__(
        self, columns: int, hidden: tuple[int, ...], code: int, clusters: int, corrupt: float
    ) -> None:
        super().__init__()
        self.encoder = mlp([columns, *hidden, code])
        self.decoder = mlp([code, *reversed(hidden), columns])
        self.centres = nn.Parameter(torch.zeros(clusters, code))
        self.corrupt = nn.Dropout(corrupt)

    def denoise(self, rows: Tensor) -> Tensor:
        """Copy rows ``[B, D]``, in training from corrupted ones."""
        copies: Tensor = self.decoder(self.encoder(self.corrupt(rows)))
        return copies

    def squares(self, code: Tensor) -> Tensor:
        """Squared distances ``[B, K]`` of codes to the centres."""
        return (code.unsqueeze(1) - self.centres).square().sum(dim=2)


class DeepEmbeddedClustering(Detector):
    """Least squared distance of a window's code to a cluster, in units of the cluster's spread.

    A denoising autoencoder learns codes first; k-means over these gives the centres ``mu_j``. Then
    encoder and centres are trained together: shares ``q_ij ~ 1 / (1 + |z_i - mu_j|²)`` are drawn to
    their sharpened form ``p_ij ~ q_ij² / sum_i q_ij`` by the divergence ``KL(P || Q)``, and the
    error of reconstruction keeps distances meaningful. The score is ``min_j |z - mu_j|² / v_j``
    with the mean squared distance ``v_j`` of the members. ``partial_fit`` moves centres and spreads
    as running means and leaves the networks as they are.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``64 D + 14,000`` multiply-adds a window.

    Notes
    -----
    Contaminated data gives clusters of anomalies, which then count as normal. The number of
    clusters need not be exact: a blob that several centres share is still covered.

    Explanations and expected values compare a window with the decoded centre of its cluster.

    Adaptations: narrower layers than in the paper, trained all at once and by Adam; the
    reconstruction error is kept in the second stage; targets are renewed every epoch; training
    stops by the loss of held-out windows and not by how many of them change their cluster; the
    score, which the method leaves open; clusters that end without members are out of the game.

    References
    ----------
    Xie et al. 2016, *Unsupervised deep embedding for clustering analysis*; Guo et al. 2017,
    *Improved deep embedded clustering with local structure preservation*. Survey: Pang et al. 2020,
    section 5.2.3, equation 32.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden, code
            Widths of the encoder's hidden layers and of its code.
        clusters
            Number of centres.
        corrupt
            Share of the inputs that the autoencoder has to do without.
        clustering
            Weight of the divergence, beside the error of reconstruction.
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

    caps = Capabilities(
        name="dec",
        section="5.2.3",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="tiny",
        loop="clustering",
        sources=("CLUSTERS",),
    )
    chunk = 2048

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._net = self._build(min(self.config.clusters, len(data)))
        run = Run(self.seed, budget, self.report)
        early, late = split(data)
        self._pretrain(run, early, late)
        codes = evaluate(self._codes, data, self.config.batch)
        found = kmeans(codes, torch.ones_like(codes), self.config.clusters)
        with torch.no_grad():
            self._net.centres.copy_(found.centres)
        sharpen_clusters(
            Stage(self._net, self.config, run),
            self._rows(early),
            self._rows(late),
            self._shares,
            self._loss,
        )
        codes = evaluate(self._codes, data, self.config.batch)
        self._weight, _, squares = self._members(codes)
        self._spread = squares / self._weight.clamp(min=1)

    def _pretrain(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        config = self.config

        def error(batch: WindowBatch) -> Tensor:
            rows, real = self._rows(batch)
            return ((rows - self._net.denoise(rows)) * real).square().sum(dim=1)

        def draw(generator: torch.Generator) -> Iterator[WindowBatch]:
            return minibatches(early, config, generator, new_ids=False)

        settings = msgspec.structs.replace(config, epochs=config.pretrain_epochs)
        # half of a budget, lest nothing be left for the clusters
        stage = Stage(self._net, settings, run, share=0.5)
        train(stage, draw, error, validate=lambda: held_out_loss(error, late, settings))

    def _loss(self, batch: Assigned) -> Tensor:
        code = self._net.encoder(batch.rows)
        errors = ((batch.rows - self._net.decoder(code)) * batch.real).square().sum(dim=1)
        shares = soft_assignment(self._net.squares(code))
        loss: Tensor = errors + self.config.clustering * divergence(batch.target, shares)
        return loss

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        codes = evaluate(self._codes, data, self.config.batch)
        count, gaps, squares = self._members(codes)
        past = self._weight.clamp(max=self.config.horizon)
        total = (past + count).clamp(min=1)
        move = gaps / total.unsqueeze(1)
        # around the new centre, which is the mean where the old one was
        spread = (past * self._spread + squares) / total - move.square().sum(dim=1)
        with torch.no_grad():
            self._net.centres.add_(move)
        self._spread, self._weight = spread.clamp(min=0), past + count
        self.report.losses = [float(self._distance(codes)[0].mean())]
        self.report.stopped = "epochs"

    def _members(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count the members ``[K]`` of each cluster; sum up their gaps ``[K, Z]`` and squares."""
        squares = self._net.squares(codes)
        index = squares.argmin(dim=1)
        belongs = nn.functional.one_hot(index, squares.shape[1]).float()
        gaps = belongs.T @ (codes - self._net.centres[index])
        return belongs.sum(dim=0), gaps, (belongs * squares).sum(dim=0)

    # -- scoring ----------------------------------------------------------------------------

    def _rows(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Rows ``[B, D]``, and which of their entries are no padding."""
        steps = self._fitted().steps
        mask = nn.functional.pad(data.mask, (0, steps - data.steps))
        return self._input.flatten(data, steps), mask.repeat_interleave(self._input.columns, dim=1)

    def _codes(self, data: WindowBatch) -> Tensor:
        codes: Tensor = self._net.encoder(self._rows(data)[0])
        return codes

    def _shares(self, rows: Tensor) -> Tensor:
        return soft_assignment(self._net.squares(self._net.encoder(rows)))

    def _distance(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Least distance ``[B]`` in units of spread, and to which cluster."""
        occupied = self._weight > 0
        least = (FLOOR * self._spread[occupied].mean()).clamp(min=LEAST_SPREAD)
        distances = self._net.squares(codes) / torch.maximum(self._spread, least)
        found = distances.masked_fill(~occupied, torch.inf).min(dim=1)
        return found.values, found.indices

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        score, cluster = self._distance(self._codes(data))
        if explain == "none":
            return Scores(score)
        rows, real = self._rows(data)
        prototypes = self._net.decoder(self._net.centres)[cluster] * real
        found = self._input.explained(data, score, (rows - prototypes).square())
        steps = prototypes.view(len(data), -1, self._input.columns)[:, : data.steps]
        return replace(found, expected=steps[:, :, : data.features])

    # -- files ------------------------------------------------------------------------------

    def _build(self, clusters: int) -> ClusterNet:
        config = self.config
        columns = self._fitted().steps * self._input.columns
        net = ClusterNet(columns, config.hidden, config.code, clusters, config.corrupt)
        return net.to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **self._input.state("input."),
            **module_state(self._net, "net."),
            "weight": self._weight,
            "spread": self._spread,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._weight, self._spread = state["weight"], state["spread"]
        self._net = self._build(len(self._weight))
        load_module(self._net, state, "net.")
