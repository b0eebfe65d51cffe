"""Pairs are drawn and related as the paper says, and what stands beside anomalies is anomalous."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors import create
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.detector import Budget
from detectors.loops.pairs import TARGETS, draw_pairs
from detectors.prenet import REFERENCES, PReNet


@pytest.fixture(scope="module")
def trained() -> PReNet:
    data = sample("FEWLABELS")
    detector = create("prenet").fit(data.train, data.labels, budget=Budget(steps=400))
    assert isinstance(detector, PReNet)
    return detector


def test_half_of_the_pairs_are_unlabelled_and_anomalies_come_first() -> None:
    others, anomalies = torch.zeros(50, 1), torch.ones(3, 1)
    pairs = draw_pairs(others, anomalies, 64, torch.Generator().manual_seed(0))
    known = pairs.first.squeeze(1) + pairs.second.squeeze(1)
    assert torch.equal(pairs.target, torch.tensor(TARGETS)[known.long()])
    assert [int((known == count).sum()) for count in (0, 1, 2)] == [32, 16, 16]
    mixed = known == 1
    assert (pairs.first[mixed] == 1).all()


def test_a_lone_anomaly_is_paired_with_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = draw_pairs(torch.zeros(5, 2), torch.ones(1, 2), 4, generator)
    assert len(pairs.first) == len(pairs.second) == 4


def test_windows_score_the_mean_relation_to_the_references(trained: PReNet) -> None:
    data = sample("FEWLABELS")
    found = trained.score(data.normal[:5]).score
    rows = trained._rows(trained._prepare(data.normal[:5]))
    anomalies, others = trained._anomalies[-REFERENCES:], trained._others[:REFERENCES]
    for row, score in zip(rows, found.tolist(), strict=True):
        beside_anomalies = trained._net(anomalies, row.expand_as(anomalies)).mean()
        before_others = trained._net(row.expand_as(others), others).mean()
        assert score == pytest.approx(float(beside_anomalies + before_others), abs=1e-4)


def test_anomalies_score_near_twelve_and_normals_near_four(trained: PReNet) -> None:
    """8 beside an anomaly and 4 before another window; 4 and 0."""
    data = sample("FEWLABELS")
    normal, odd = (trained.score(x).score for x in (data.normal, data.anomalous))
    assert float(normal.median()) == pytest.approx(4, abs=2)
    assert float(odd.median()) > 9
    assert ranking(normal, odd) > 0.95


def test_the_error_of_the_relation_falls(trained: PReNet) -> None:
    losses = trained.report.losses
    assert losses[-1] < 0.5 * losses[0]


def test_a_new_label_is_learned_without_forgetting_the_old_ones(trained: PReNet) -> None:
    data = sample("FEWLABELS")
    rng = np.random.default_rng(0)
    fresh = 0.1 * rng.normal(size=(200, 16))
    fresh[:5, 0] += 8.0
    labels = np.full(200, -1)
    labels[:5] = 1
    twin = create("prenet").fit(data.train, data.labels, budget=Budget(steps=400))
    kind = fresh[:5] + 0.1 * rng.normal(size=(5, 16))
    before = ranking(twin.score(data.normal).score, twin.score(kind).score)
    twin.partial_fit(fresh, labels)
    normal = twin.score(data.normal).score
    assert ranking(normal, twin.score(kind).score) > max(before, 0.95)
    assert ranking(normal, twin.score(data.anomalous).score) > 0.95
