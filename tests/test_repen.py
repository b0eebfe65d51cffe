"""REPEN: the loss by hand, who is drawn for which place, and the measure before and after."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from detectors import Budget, FitReport
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import join, small
from detectors.loops.neighbours import SAMPLES, SIZE, nearest_in_samples, sample_distances
from detectors.loops.stage import Run, Stage, Training
from detectors.loops.triplets import (
    Sampler,
    candidates,
    in_proportion,
    separate,
    triplet_loss,
    typical_distance,
)
from detectors.repen import Repen
from schemas.errors import LabelsError

TRAIN = Budget(steps=150)


@cache
def learned() -> Repen:
    """A detector that others may read and not change, fitted on two percent of anomalies."""
    data = sample("CLUSTERS")
    return Repen().fit(join([data.train[:1960], data.anomalous[:40]]), budget=TRAIN)


@pytest.mark.parametrize(
    ("near", "far", "expected"),
    [
        (1.0, 3.0, 0.0),  # 9 - 1 exceeds 5
        (2.0, 3.0, 0.0),  # 9 - 4 is exactly 5
        (3.0, 3.0, 5.0),
        (3.0, 1.0, 13.0),
        (6.0, 6.1, 3.79),  # squares count, of which small ones hardly differ
        (0.0, 2.0, 1.0),
    ],
)
def test_the_loss_by_hand(near: float, far: float, expected: float) -> None:
    query = torch.tensor([[1.0, 1.0]])
    inlier, outlier = query + torch.tensor([near, 0.0]), query - torch.tensor([0.0, far])
    loss = triplet_loss(query, inlier, outlier, torch.tensor(5.0))
    assert loss.shape == (1,)
    assert float(loss) == pytest.approx(expected, abs=1e-4)


def test_candidates_lie_beyond_the_bound_of_cantelli() -> None:
    scores = torch.tensor([1.0] * 90 + [2.0] * 7 + [5.0, 6.0, 9.0])
    bound = float(scores.mean() + 3**0.5 * scores.std(correction=0))
    assert torch.equal(candidates(scores), scores > bound)
    assert int(candidates(scores).sum()) == 3


def test_at_most_a_quarter_are_candidates_however_scores_are_distributed() -> None:
    generator = torch.Generator().manual_seed(0)
    for power in (0.1, 1.0, 10.0):
        scores = torch.rand(500, generator=generator) ** power
        assert int(candidates(scores).sum()) <= 125
    two_values = torch.tensor([0.0] * 76 + [1.0] * 24)  # the worst case
    assert int(candidates(two_values).sum()) == 24


@pytest.mark.parametrize(("rows", "found"), [(100, 10), (30, 10), (7, 3), (2, 1), (1, 0)])
def test_where_no_score_stands_out_the_highest_are_candidates(rows: int, found: int) -> None:
    scores = torch.arange(float(rows))
    chosen = candidates(scores)
    assert int(chosen.sum()) == found
    assert not chosen[: rows - found].any()


def test_draws_are_in_proportion_to_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = in_proportion(torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0]))(20_000, generator)
    share = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(share, torch.tensor([0, 0.25, 0, 0.75, 0]), atol=0.02, rtol=0)
    assert len(in_proportion(torch.zeros(0))(0, generator)) == 0


def test_who_is_drawn_for_which_place() -> None:
    rows = torch.arange(100.0).unsqueeze(1)
    scores = torch.ones(100)
    scores[0] = 10.0  # as outlying as an inlier can be: a rare query, yet a common partner
    scores[98:] = torch.tensor([30.0, 90.0])
    known = torch.full((2, 1), -1.0)
    drawn = Sampler(rows, scores, known).draw(40_000, torch.Generator().manual_seed(0))
    query, inlier, outlier = (place.squeeze(1) for place in drawn)
    assert float(torch.cat([query, inlier]).max()) < 98
    assert not (query == inlier).any()
    ordinary = 97 + 10
    expected = (ordinary - 10) / ((ordinary - 1) * 97 + ordinary - 10)
    assert float((query == 0).float().mean()) == pytest.approx(expected, rel=0.15)
    assert float((inlier == 0).float().mean()) == pytest.approx(1 / 98, rel=0.15)
    assert int((outlier == -1).sum()) == 20_000
    others = outlier[outlier != -1]
    assert float((others == 99).float().mean()) == pytest.approx(0.75, abs=0.02)
    assert float((others == 98).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_known_anomalies_alone_are_drawn_where_there_are_no_candidates() -> None:
    row, known = torch.zeros(1, 2), torch.ones(3, 2)
    drawn = Sampler(row, torch.ones(1), known).draw(8, torch.Generator().manual_seed(0))
    assert drawn.outlier.tolist() == [[1.0, 1.0]] * 8
    assert drawn.query.tolist() == drawn.inlier.tolist() == [[0.0, 0.0]] * 8
    assert len(Sampler(row, torch.ones(1), known[:0])) == 0


def test_no_gradient_reaches_the_scores_that_triplets_are_drawn_by() -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 3)
    scores = nearest_in_samples(rows).requires_grad_()
    sampler, model = Sampler(rows, scores, rows[:0]), nn.Linear(3, 2)
    before = sampler.draw(64, torch.Generator().manual_seed(1))
    start, values = model.weight.detach().clone(), scores.detach().clone()
    run = Run(0, Budget(), FitReport())
    stage = Stage(model, Training(epochs=2, steps_per_epoch=5, batch=64), run)
    separate(stage, sampler, torch.tensor(10.0), model)
    assert not torch.equal(model.weight, start)
    assert scores.grad is None
    assert torch.equal(scores, values)
    after = sampler.draw(64, torch.Generator().manual_seed(1))
    assert all(torch.equal(*places) for places in zip(before, after, strict=True))


def test_the_first_measure_ranks_isolated_windows_first() -> None:
    data = sample("CLUSTERS")
    rows = torch.cat([data.train.num[:1960, 0], data.anomalous.num[:40, 0]])
    torch.manual_seed(0)
    found = nearest_in_samples(rows)
    assert ranking(found[:1960], found[1960:]) > 0.95
    assert float(candidates(found)[1960:].float().mean()) > 0.5


def test_the_score_is_the_first_measure_taken_on_codes() -> None:
    detector, data = learned(), sample("CLUSTERS")
    windows = join([data.normal[:4], data.anomalous[-4:]])
    codes = detector._net(detector._input.flatten(detector._prepare(windows)))
    samples = detector._references.view(SAMPLES, SIZE, -1)
    for code, found in zip(codes, detector.score(windows).score, strict=True):
        nearest = [min(float((code - other).norm()) for other in part) for part in samples]
        assert float(found) == pytest.approx(float(np.mean(nearest)), rel=1e-4)


def test_planted_anomalies_rank_high() -> None:
    data, detector = sample("CLUSTERS"), learned()
    normal = detector.score(data.normal).score
    assert ranking(normal, detector.score(data.anomalous[40:]).score) > 0.9


def test_training_lowers_the_loss() -> None:
    losses = learned().report.losses
    assert min(losses) < 0.9 * losses[0]


def test_one_corrupted_number_is_blamed_and_the_score_is_shared_out() -> None:
    detector, data = learned(), sample("CLUSTERS")
    for feature in range(8):
        for sign in (-8.0, 8.0):
            num = data.normal.num[:64].clone()
            num[:, 0, feature] += sign * data.normal.num[:, 0, feature].std()
            scores = detector.score(replace(data.normal[:64], num=num), explain="full")
            assert scores.feature is not None
            assert int(scores.feature.sum(dim=1).mean(dim=0).argmax()) == feature
            torch.testing.assert_close(scores.feature.sum(dim=(1, 2)), scores.score)


def test_what_is_expected_is_the_mean_of_the_nearest_references() -> None:
    detector, data = learned(), sample("CLUSTERS")
    windows = data.normal[:16]
    codes = detector._net(detector._input.flatten(detector._prepare(windows)))
    nearest = sample_distances(codes, detector._references).argmin(dim=2)
    examples = detector._examples.view(SAMPLES, SIZE, -1)
    parts = [torch.stack([examples[s, row[s]] for s in range(SAMPLES)]).mean(0) for row in nearest]
    found = detector.score(windows, explain="full").expected
    assert found is not None
    torch.testing.assert_close(found[:, 0], detector._scaler.inverse(torch.stack(parts)))
    # of three blobs, the own one is near and the others are not
    own, other = found[:, 0] - windows.num[:, 0], found[:, 0] - windows.num[:, 0].roll(1, 0)
    assert float(own.norm(dim=1).median()) < 4
    assert float(own.norm(dim=1).mean()) < float(other.norm(dim=1).mean())


def test_labels_show_where_anomalies_are() -> None:
    data = sample("FEWLABELS")
    taught = Repen().fit(data.train, data.labels, budget=TRAIN)
    alone = Repen().fit(data.train, budget=TRAIN)
    auc = [
        ranking(found.score(data.normal).score, found.score(data.anomalous).score)
        for found in (taught, alone)
    ]
    assert auc[0] > 0.95
    assert auc[0] > auc[1]
    assert len(taught._anomalies) == 10


def test_an_update_teaches_a_new_kind_and_does_not_raise_the_margin() -> None:
    data = sample("FEWLABELS")
    detector = Repen().fit(data.train, data.labels, budget=TRAIN)
    unit = detector._unit.clone()
    other = replace(data.anomalous, num=data.anomalous.num.roll(3, dims=2))  # another direction
    before = ranking(detector.score(data.normal).score, detector.score(other).score)
    labels = np.array([1] * 10 + [-1] * 400)
    detector.partial_fit(join([other[:10], data.train[:400]]), labels)
    assert torch.equal(detector._unit, unit)
    assert len(detector._anomalies) == 10 + 10
    normal = detector.score(data.normal).score
    after = ranking(normal, detector.score(other[10:]).score)
    assert after > max(before, 0.9)
    assert ranking(normal, detector.score(data.anomalous).score) > 0.9


def test_the_margin_is_relative_to_distances_before_training() -> None:
    torch.manual_seed(0)
    codes = torch.randn(500, 4)
    assert float(typical_distance(3 * codes)) == pytest.approx(
        9 * float(typical_distance(codes)), rel=0.2
    )
    mostly_equal = torch.cat([torch.zeros(900, 4), torch.randn(100, 4)])
    assert float(typical_distance(mostly_equal)) > 1
    assert float(typical_distance(torch.ones(5, 4))) == 1


def test_labelled_anomalies_alone_are_refused() -> None:
    data = small("record")
    with pytest.raises(LabelsError, match="repen: every window is a labelled anomaly"):
        Repen().fit(data, np.ones(len(data)), budget=TRAIN)
