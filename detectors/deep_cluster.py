"""Deep clustering: k-means or a Gaussian mixture over codes that are trained to be clustered."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.clustered import ClusteredCodes, ClusteredTraining, Grouping
from detectors.loops.batches import held_out_loss, split
from detectors.loops.clustering import Clusters, kmeans, squared_gaps
from detectors.loops.mixture import Mixture
from detectors.loops.reconstruction import minimise
from detectors.loops.stage import Positive, Run, Stage, Weight


class DeepClustering(ClusteredCodes):
    """Squared distance of a window's code to a cluster, or its energy in a mixture of Gaussians.

    A denoising autoencoder learns codes first, and k-means finds clusters among them. Networks and
    clusters then take turns: for an epoch, encoder and decoder minimise ``|x - xhat|²`` plus
    ``clustering`` times what the clusters say of the code; after it, the clusters move on to the
    new codes. In the form ``kmeans``, that is ``|z - mu_a|²`` with the nearest centre ``mu_a``,
    which becomes the mean of its members; the score is ``min_j |z - mu_j|² / v_j`` with the mean
    squared distance ``v_j`` of the members. In the form ``gmm``, it is the energy
    ``-log sum_k pi_k N(z; mu_k, Sigma_k)``, which also is the score, and a step of expectation and
    maximisation. ``partial_fit`` moves the clusters on and leaves the networks as they are.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``64 D + 14,000`` multiply-adds a window.

    Notes
    -----
    Training data is taken as normal: anomalies in it that resemble each other get a cluster of
    their own. Both forms would rather shrink all codes to a point than cluster them; the error of
    reconstruction is what keeps them apart, and scores are in units of the spread that is left.

    Explanations and expected values compare a window with the decoded centre of its cluster.

    Adaptations: clusters move after every epoch by a pass over all windows instead of after every
    mini-batch; narrower layers, trained all at once and by Adam; windows are flattened after
    padding; variances have a ridge. Of the family, the spectral and the agglomerative form and the
    one with cluster ids as classes are left out, as are scores by memberships and cluster sizes.

    References
    ----------
    Yang et al. 2017, *Towards k-means-friendly spaces: simultaneous deep learning and clustering*;
    Caron et al. 2018, *Deep clustering for unsupervised learning of visual features*. Survey: Pang
    et al. 2020, section 5.2.3, equation 32.
    """

    class Config(ClusteredTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every deep clustering.

        Attributes
        ----------
        form
            ``kmeans`` for round clusters, ``gmm`` for stretched ones.
        ridge
            Added to the variances of the form ``gmm``.
        """

        form: Literal["kmeans", "gmm"] = "kmeans"
        clustering: Weight = 0.05
        ridge: Positive = 1e-3

    caps = Capabilities(
        name="deep_cluster",
        section="5.2.3",
        supervision="semi-supervised",
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

    def _cluster(self, data: WindowBatch, run: Run) -> Grouping:
        self._clusters = self._first_clusters(self._all_codes(data))
        early, late = split(data)
        kept, least = self._clusters, math.inf

        def validate() -> float:
            nonlocal kept, least
            loss = held_out_loss(self._loss, late, self.config)
            if loss < least:  # training keeps these weights until there are better ones
                kept, least = self._clusters, loss
            return loss

        def move(_: int = 0) -> None:
            self._clusters = self._clusters.absorb(self._all_codes(data), horizon=0)

        minimise(
            Stage(self._net, self.config, run),
            early,
            self._loss,
            validate,
            new_ids=False,
            after_epoch=move,
        )
        self._clusters = kept
        move()  # to the codes of the weights that were kept with them
        return self._clusters

    def _first_clusters(self, codes: Tensor) -> Grouping:
        centres = kmeans(codes, torch.ones_like(codes), self.config.clusters).centres
        if self.config.form == "kmeans":
            return Clusters.around(centres, codes)
        nearest = squared_gaps(codes, centres).argmin(dim=1)
        return Mixture.fit(codes, one_hot(nearest, len(centres)), self.config.ridge)

    def _loss(self, batch: WindowBatch) -> Tensor:
        rows, real = self._rows(batch)
        code = self._net.encoder(rows)
        errors = ((rows - self._net.decoder(code)) * real).square().sum(dim=1)
        if isinstance(self._clusters, Mixture):
            badness = self._clusters.energy(code)
        else:
            badness = squared_gaps(code, self._clusters.centres).amin(dim=1)
        loss: Tensor = errors + self.config.clustering * badness
        return loss

    def _read_clusters(self, state: dict[str, Tensor]) -> Grouping:
        if self.config.form == "gmm":
            return Mixture.from_state(state, "clusters.", self.config.ridge)
        return super()._read_clusters(state)
