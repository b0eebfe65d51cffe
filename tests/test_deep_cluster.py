"""Deep clustering: nearest centres, updates that never make the loss worse, both forms."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from torch import Tensor

from detectors import Budget, WindowBatch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.clustered import Grouping
from detectors.deep_cluster import DeepClustering
from detectors.loops.clustering import Clusters, squared_gaps
from detectors.loops.mixture import Mixture

both = pytest.mark.parametrize("form", ["kmeans", "gmm"])


@cache
def learned(form: str) -> DeepClustering:
    """A detector that others may read and not change."""
    detector = DeepClustering(form=form, clusters=3, batch=64, learning_rate=3e-3)
    return detector.fit(sample("CLUSTERS").train, budget=Budget(steps=300))


def codes_of(detector: DeepClustering, source: str = "record") -> Tensor:
    return detector._all_codes(detector._prepare(small(source, windows=200)))


def test_a_code_belongs_to_the_nearest_centre() -> None:
    generator = torch.Generator().manual_seed(0)
    centres, codes = (torch.randn(n, 5, generator=generator) for n in (4, 60))
    found = Clusters(centres, torch.ones(4), torch.ones(4))
    distance, index = found.judge(codes)
    by_hand = torch.stack([(codes - centre).square().sum(dim=1) for centre in centres], dim=1)
    assert torch.equal(index, by_hand.argmin(dim=1))
    torch.testing.assert_close(distance, by_hand.amin(dim=1))


def test_moving_the_centres_never_raises_the_loss() -> None:
    """With the networks as they are."""
    detector = DeepClustering(clusters=8).fit(small("record"), budget=Budget(steps=4))
    codes = codes_of(detector)
    found = Clusters.around(codes[:8].clone(), codes)
    losses = []
    for _ in range(12):
        losses.append(float(squared_gaps(codes, found.centres).amin(dim=1).mean()))
        found = found.absorb(codes, horizon=0)
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < losses[0]


def test_expectation_and_maximisation_never_raises_the_energy() -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randn(300, 3, generator=generator) + 4 * torch.eye(3).repeat(100, 1)
    found = Mixture.fit(codes, torch.rand(300, 3, generator=generator).softmax(dim=1), 1e-6)
    energies = []
    for _ in range(20):
        energies.append(float(found.energy(codes).mean()))
        found = found.absorb(codes, horizon=0)
    assert all(later <= earlier + 1e-4 for earlier, later in itertools.pairwise(energies))
    torch.testing.assert_close(
        found.responsibilities(codes).sum(dim=1), torch.ones(300, dtype=torch.float64)
    )


@both
def test_clusters_are_those_of_the_weights_that_are_kept(form: str) -> None:
    seen, first = list[Grouping](), list[Tensor]()

    class Watched(DeepClustering):
        def _first_clusters(self, codes: Tensor) -> Grouping:
            first.append(codes)
            return super()._first_clusters(codes)

        def _loss(self, batch: WindowBatch) -> Tensor:
            seen.append(self._clusters)
            # ever worse: the weights after the first epoch are the best
            return super()._loss(batch) + len(seen)

    data = small("record", windows=200)
    detector = Watched(form=form, clusters=3, epochs=4, patience=4).fit(data)
    used = seen[0]  # by the first epoch, after which the clusters moved on
    assert len({id(clusters) for clusters in seen}) > 2
    codes = detector._all_codes(detector._prepare(data))
    assert not torch.equal(codes, first[0])
    expected = used.absorb(codes, horizon=0).state("")
    for name, part in detector._clusters.state("").items():
        torch.testing.assert_close(part, expected[name])


@both
def test_all_windows_stand_behind_the_clusters(form: str) -> None:
    weight = learned(form)._clusters.state("")["weight"]
    assert weight.shape == (3,)
    assert float(weight.min()) > 0
    assert float(weight.sum()) == pytest.approx(2000)


@both
def test_what_lies_between_clusters_is_anomalous(form: str) -> None:
    data, detector = sample("CLUSTERS"), learned(form)
    scores = detector.score(data.normal).score
    assert ranking(scores, detector.score(data.anomalous).score) > 0.9


@both
def test_codes_do_not_collapse(form: str) -> None:
    data, detector = sample("CLUSTERS").normal, learned(form)
    codes = detector._codes(detector._prepare(data))
    within = squared_gaps(codes, detector._clusters.centres).amin(dim=1).mean()
    assert 0.1 < float(within) < 0.8 * float(codes.var(dim=0).sum())
    expected = detector.score(data, explain="full").expected
    assert expected is not None
    errors = (expected - data.num).square().mean(dim=(1, 2))
    assert float(errors.mean()) < float(data.num.var(dim=0).mean())


def test_the_form_decides_what_is_stored() -> None:
    data = small("record")
    files = {
        form: DeepClustering(form=form, clusters=3).fit(data, budget=Budget(steps=2)).tensors()
        for form in ("kmeans", "gmm")
    }
    assert "clusters.spread" in files["kmeans"]
    assert "clusters.covariance" in files["gmm"]


@both
def test_an_update_counts_the_new_windows(form: str) -> None:
    data = small("record", windows=120)
    detector = DeepClustering(form=form, clusters=3).fit(data, budget=Budget(steps=4))
    detector.partial_fit(small("record", seed=5, windows=60))
    assert float(detector._clusters.state("")["weight"].sum()) == pytest.approx(180)


@both
def test_more_clusters_than_windows(form: str) -> None:
    data = small("record")[:4]
    detector = DeepClustering(form=form).fit(data, budget=Budget(steps=2))
    assert detector.score(small("record")).score.isfinite().all()
