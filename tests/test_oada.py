"""Clusters and their dummy anomalies: Fourier features, views, classifiers, what lies between."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from detectors import Budget, as_batch
from detectors.checks.sense import ranking
from detectors.checks.sources import Sample, sample
from detectors.checks.subject import small
from detectors.loops.dummies import LEAST_MEMBERS, find_clusters, hinge
from detectors.oada import DummyAnomalies


@cache
def learned(head: str = "fourier") -> tuple[DummyAnomalies, Sample]:
    """A detector that others may read and not change."""
    data = sample("CLUSTERS")
    detector = DummyAnomalies(head=head, clusters=3, batch=64, learning_rate=5e-3)
    return detector.fit(data.train, budget=Budget(steps=600)), data


def test_the_hinge_loss_by_hand() -> None:
    outputs = torch.tensor([[2.0, -3.0, 0.5], [0.5, 0.25, -1.0]])
    # own cluster 0: 0, 0 and 1.5; own cluster 1: 1.5, 0.75 and 0
    expected = torch.tensor([1.5, 2.25])
    torch.testing.assert_close(hinge(outputs, torch.tensor([0, 1])), expected)


def test_the_score_is_minus_the_largest_output() -> None:
    detector, data = learned()
    rows, _ = detector._rows(detector._prepare(data.normal))
    state = detector.tensors()
    weight, bias = (
        [state[f"net.nets.0.encoder.{i}.{name}"] for i in (0, 2)] for name in ("weight", "bias")
    )
    codes = (rows @ weight[0].T + bias[0]).relu() @ weight[1].T + bias[1]
    angle = (codes - state["mean"]) / state["scale"] @ state["frequencies"].T
    features = torch.cat([angle.cos(), angle.sin()], dim=1) / len(state["frequencies"]) ** 0.5
    outputs = features @ state["head.weight"].T + state["head.bias"]
    expected = torch.stack([-max(row) for row in outputs])
    torch.testing.assert_close(detector.score(data.normal).score, expected, atol=1e-4, rtol=1e-4)


def test_what_lies_between_two_clusters_is_in_neither() -> None:
    detector, data = learned()
    centres = _blobs(data)
    middles = torch.stack([(centres[i] + centres[j]) / 2 for i, j in ((0, 1), (0, 2), (1, 2))])
    inside, between = (detector.score(as_batch(points)).score for points in (centres, middles))
    assert float(between.min()) > float(inside.max())


def test_far_points_look_normal_to_half_spaces_only() -> None:
    detector, data = learned()
    centres = _blobs(data)
    far = centres + 6 * (centres - centres.mean(dim=0))
    for judge, looks_normal in ((learned("linear")[0], True), (detector, False)):
        inside, beyond = (judge.score(as_batch(points)).score for points in (centres, far))
        assert bool((beyond < inside).all()) == looks_normal
        assert bool((beyond > inside).all()) != looks_normal
    normal, anomalous = (detector.score(part).score for part in (data.normal, data.anomalous))
    assert ranking(normal, anomalous) > 0.9


def _blobs(data: Sample) -> Tensor:
    """Means ``[3, F]`` of the three blobs."""
    rows = data.train.num[:, 0]
    index = rows[:, :3].argmax(dim=1)
    return torch.stack([rows[index == i].mean(dim=0) for i in range(3)])


def test_small_clusters_are_dropped() -> None:
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(50, 2, generator=generator)
    few = torch.full((LEAST_MEMBERS - 1, 2), 100.0)
    torch.manual_seed(0)
    found = find_clusters(torch.cat([many, many + 30, few]), 3)
    assert sorted(torch.bincount(found).tolist()) == [50, 50 + len(few)]
    assert find_clusters(torch.eye(2) * 9, 5).tolist() in ([0, 1], [1, 0])  # nothing but small ones


def test_views_of_a_series_are_its_steps_and_their_differences() -> None:
    data = small("series")
    detector = DummyAnomalies().fit(data, budget=Budget(steps=2))
    batch = detector._prepare(data)
    (level, real), (motion, moving) = detector._views(*detector._rows(batch))
    assert torch.equal(level.view(-1, 6, 4), batch.num)
    expected = batch.num.diff(dim=1) * batch.mask[:, 1:].unsqueeze(-1)
    torch.testing.assert_close(motion.view(-1, 5, 4), expected)
    assert torch.equal(real.view(-1, 6, 4)[:, :, 0], batch.mask)
    assert torch.equal(moving.view(-1, 5, 4)[:, :, 0], batch.mask[:, 1:])
    assert detector._net.widths == [6 * 4, 5 * 4]


def test_views_of_a_mixed_record_are_the_whole_and_its_parts() -> None:
    data = small("mixed")
    detector = DummyAnomalies().fit(data, budget=Budget(steps=2))
    widths = detector._net.widths
    assert widths[0] == sum(widths[1:])
    assert widths[1] == 3
    before, after = (
        detector._codes(*detector._rows(detector._prepare(batch)))
        for batch in (data, replace(data, num=data.num + 1))
    )
    same = (before == after).all(dim=2).all(dim=0)
    assert same.tolist() == [False, False, True]  # the view of the categories sees no numbers


def test_clusters_that_split_a_blob_are_given_up() -> None:
    data = as_batch(torch.randn(300, 4, generator=torch.Generator().manual_seed(0)))
    detector = DummyAnomalies(clusters=20, batch=64, epochs=5).fit(data, budget=Budget(steps=300))
    assert detector._head.out_features < 20
