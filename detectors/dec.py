"""Deep embedded clustering: a window whose code is far from all clusters of codes is anomalous."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.clustered import ClusteredCodes, ClusteredTraining
from detectors.loops.batches import split
from detectors.loops.clustering import (
    Assigned,
    Clusters,
    divergence,
    kmeans,
    sharpen_clusters,
    soft_assignment,
    squared_gaps,
)
from detectors.loops.stage import Run, Stage
from detectors.nets.autoencoder import CorruptedAutoencoder


class CentredNet(nn.Module):
    """Autoencoder with cluster centres ``[K, Z]`` among its codes, which learn with it."""

    def __init__(self, net: CorruptedAutoencoder, centres: Tensor) -> None:
        super().__init__()
        self.net = net
        self.centres = nn.Parameter(centres)

    def shares(self, rows: Tensor) -> Tensor:
        """``[B, K]`` of rows ``[B, D]`` in the clusters."""
        return soft_assignment(squared_gaps(self.net.encoder(rows), self.centres))


class DeepEmbeddedClustering(ClusteredCodes):
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
    score, which the method leaves open; clusters that end without members are out of the game. Of
    other scores, the share in the nearest cluster says little beyond all of them, and sizes of
    clusters (as in CBLOF) call whatever comes in few numbers anomalous: they are left out.

    References
    ----------
    Xie et al. 2016, *Unsupervised deep embedding for clustering analysis*; Guo et al. 2017,
    *Improved deep embedded clustering with local structure preservation*. Survey: Pang et al. 2020,
    section 5.2.3, equation 32.
    """

    class Config(ClusteredTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings: those of every deep clustering."""

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

    def _cluster(self, data: WindowBatch, run: Run) -> Clusters:
        codes = self._all_codes(data)
        found = kmeans(codes, torch.ones_like(codes), self.config.clusters)
        model = CentredNet(self._net, found.centres)

        def loss(batch: Assigned) -> Tensor:
            code = self._net.encoder(batch.rows)
            errors = ((batch.rows - self._net.decoder(code)) * batch.real).square().sum(dim=1)
            shares = soft_assignment(squared_gaps(code, model.centres))
            total: Tensor = errors + self.config.clustering * divergence(batch.target, shares)
            return total

        early, late = split(data)
        sharpen_clusters(
            Stage(model, self.config, run), self._rows(early), self._rows(late), model.shares, loss
        )
        return Clusters.around(model.centres.detach(), self._all_codes(data))
