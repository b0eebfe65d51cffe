"""Deep embedded clustering: assignments and targets by definition, centres in any order."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from detectors import Budget
from detectors.batch import WindowBatch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.dec import DeepEmbeddedClustering
from detectors.loops.clustering import (
    Clusters,
    divergence,
    sharpened,
    soft_assignment,
    squared_gaps,
)


@cache
def learned() -> DeepEmbeddedClustering:
    """A detector that others may read and not change."""
    return DeepEmbeddedClustering(clusters=3).fit(sample("CLUSTERS").train)


def shares(data: WindowBatch, detector: DeepEmbeddedClustering | None = None) -> Tensor:
    detector = detector or learned()
    codes = detector._codes(detector._prepare(data))
    return soft_assignment(squared_gaps(codes, detector._clusters.centres))


def clusters(detector: DeepEmbeddedClustering) -> Clusters:
    assert isinstance(detector._clusters, Clusters)
    return detector._clusters


def test_rows_sum_to_one_targets_are_surer_and_the_divergence_is_not_negative() -> None:
    q = shares(sample("CLUSTERS").train)
    p = sharpened(q, q.sum(dim=0))
    for rows in (q, p):
        torch.testing.assert_close(rows.sum(dim=1), torch.ones(2000))
    assert float(p.amax(dim=1).mean()) >= float(q.amax(dim=1).mean())
    assert (divergence(p, q) >= -1e-6).all()
    torch.testing.assert_close(divergence(q, q), torch.zeros(2000), atol=1e-6, rtol=0.0)


def test_shares_and_targets_by_hand() -> None:
    q = soft_assignment(torch.tensor([[0.0, 1.0], [3.0, 1.0]]))
    torch.testing.assert_close(q, torch.tensor([[2 / 3, 1 / 3], [1 / 3, 2 / 3]]))
    p = sharpened(q, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(p[0], torch.tensor([0.8, 0.2]))
    larger = sharpened(q, torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(larger[0], torch.tensor([4 / 7, 3 / 7]))  # large clusters count less
    expected = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(dim=1)
    torch.testing.assert_close(divergence(p, q), expected)
    sure = torch.tensor([[1.0, 0.0]])
    assert float(divergence(sure, torch.tensor([[0.5, 0.5]]))) == pytest.approx(0.6931, abs=1e-3)


def test_every_cluster_has_many_members_and_what_lies_between_blobs_is_anomalous() -> None:
    data, detector = sample("CLUSTERS"), learned()
    # scaled, the blobs are as far apart in three directions as the noise is wide in five, so that
    # a cluster holds most of one blob and some of the others
    assert float(clusters(detector).weight.min()) > 400
    scores = detector.score(data.normal).score
    assert ranking(scores, detector.score(data.anomalous).score) > 0.9
    assert float(scores.mean()) == pytest.approx(1.0, abs=0.2)  # in units of the usual spread


def test_training_makes_assignments_surer() -> None:
    data = sample("CLUSTERS").train
    untrained = DeepEmbeddedClustering(clusters=3, clustering=0.0).fit(data)
    before = shares(data, untrained).amax(dim=1).mean()
    assert float(shares(data).amax(dim=1).mean()) > float(before)


def test_the_order_of_the_centres_does_not_matter() -> None:
    data = sample("CLUSTERS")
    detector = DeepEmbeddedClustering().fit(data.train, budget=Budget(steps=50))
    before = detector.score(data.anomalous).score
    order = torch.arange(10).flip(0).roll(3)
    found = clusters(detector)
    detector._clusters = Clusters(found.centres[order], found.spread[order], found.weight[order])
    torch.testing.assert_close(detector.score(data.anomalous).score, before)


def test_the_score_is_the_least_distance_in_units_of_spread() -> None:
    detector, data = learned(), sample("CLUSTERS").normal[:20]
    codes = detector._codes(detector._prepare(data))
    for code, score in zip(codes, detector.score(data).score.tolist(), strict=True):
        found = clusters(detector)
        gaps = (code - found.centres).square().sum(dim=1) / found.spread
        assert score == pytest.approx(float(gaps.min()), rel=1e-3)


def test_a_cluster_without_members_attracts_nothing() -> None:
    data = small("record")
    detector = DeepEmbeddedClustering(clusters=4).fit(data, budget=Budget(steps=2))
    codes = detector._codes(detector._prepare(data))
    found = clusters(detector)
    gone = int(found.judge(codes)[1][0])
    found.weight[gone] = 0.0
    assert gone not in found.judge(codes)[1].tolist()


def test_updates_move_centres_and_spreads_like_running_means() -> None:
    data = small("record", windows=100)
    detector = DeepEmbeddedClustering(clusters=1).fit(data, budget=Budget(steps=20))
    codes = detector._codes(detector._prepare(data))
    centre = codes.mean(dim=0)  # start from the exact moments
    spread = (codes - centre).square().sum(dim=1).mean()
    detector._clusters = Clusters(centre.unsqueeze(0), spread.view(1), torch.tensor([100.0]))
    more = small("record", seed=5, windows=50)
    detector.partial_fit(more)
    both, found = torch.cat([codes, detector._codes(detector._prepare(more))]), clusters(detector)
    torch.testing.assert_close(found.centres[0], both.mean(dim=0), atol=1e-4, rtol=1e-4)
    spread = (both - both.mean(dim=0)).square().sum(dim=1).mean()
    torch.testing.assert_close(found.spread[0], spread, atol=1e-4, rtol=1e-3)
    assert float(found.weight) == 150
