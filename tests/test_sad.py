"""Deep SAD: its loss by hand, what labels add to Deep SVDD, and what an update remembers."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import Sample, sample
from detectors.checks.subject import join, small
from detectors.detector import Detector
from detectors.loops.batches import split
from detectors.loops.label_store import KEPT, LabelStore
from detectors.loops.one_class import SOFTENING, draw_apart, push_out
from detectors.loops.stage import Stage
from detectors.sad import DeepSad
from detectors.svdd import DeepSvdd
from schemas.errors import LabelsError

SMALL: dict[str, Any] = {"hidden": 32, "code": 16, "batch": 64}
TRAIN = Budget(steps=400)


@cache
def learned() -> tuple[DeepSad, Sample]:
    """A detector that others may read and not change."""
    data = sample("FEWLABELS")
    return DeepSad(**SMALL).fit(data.train, data.labels, budget=TRAIN), data


def test_the_labelled_term_by_hand() -> None:
    others = torch.arange(1.0, 101.0)
    distances = torch.tensor([4.0, 4.0, 0.5, 0.5])
    found = push_out(distances, torch.tensor([True, False, True, False]), others)
    nearest = 1 / (1.0 + SOFTENING)  # one percent of the others lie within distance 1
    assert found.tolist() == pytest.approx([1 / (4 + SOFTENING), 4.0, nearest, 0.5])


def test_an_anomaly_in_the_midst_of_normal_windows_does_not_push() -> None:
    distances = torch.tensor([0.5, 3.0], requires_grad=True)
    loss = push_out(distances, torch.ones(2, dtype=torch.bool), torch.tensor([1.0, 2.0]))
    slope = torch.autograd.grad(loss.sum(), distances)[0]
    assert slope.tolist() == pytest.approx([0.0, -1 / 9], abs=1e-5)


def test_anomalies_at_the_centre_itself_cost_something_finite() -> None:
    zeros = torch.zeros(3, requires_grad=True)
    loss = push_out(zeros, torch.ones(3, dtype=torch.bool), torch.zeros(5))
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), zeros)[0].isfinite().all()


def test_without_labels_it_is_deep_svdd() -> None:
    data, budget = sample("SUBSPACE").train, Budget(steps=200)
    plain, twin = DeepSvdd(**SMALL).fit(data, budget=budget), DeepSad(**SMALL, trim=0)
    twin._scaler, twin.shape = plain._scaler, plain.shape
    prepared = twin._prepare(data)
    torch.manual_seed(0)
    run, nothing = twin._begin(prepared, budget), prepared[:0]
    stage = Stage(twin._encoder, twin.config, run)
    draw_apart(stage, *split(prepared), nothing, nothing.mask[:, 0], twin._distances, 1.0)
    expected = plain._encoder.state_dict()
    assert all(torch.equal(w, expected[n]) for n, w in twin._encoder.state_dict().items())


def test_labelled_anomalies_end_up_farther_out_than_the_rest() -> None:
    detector, data = learned()
    assert data.labels is not None
    scores = detector.score(data.train).score
    known = torch.from_numpy(data.labels == 1)
    assert float(scores[known].min()) > float(scores[~known].median())
    assert float(scores[known].median()) > float(scores[~known].quantile(0.97))


def test_ten_labels_rank_their_kind_where_deep_svdd_draws_it_in() -> None:
    detector, data = learned()
    blind = DeepSvdd(**SMALL).fit(data.train, budget=TRAIN)

    def auc(found: Detector) -> float:
        return ranking(found.score(data.normal).score, found.score(data.anomalous).score)

    assert auc(detector) > 0.98
    assert auc(detector) > auc(blind)


def test_labelled_normals_are_drawn_in() -> None:
    data = sample("FEWLABELS")
    assert data.labels is not None
    odd = data.anomalous.num.roll(3, dims=2)  # a kind that nothing is said of
    odd_normals = replace(data.anomalous, num=odd)
    train = join([data.train, odd_normals[:40]])
    means = []
    for mark in (-1, 0):
        labels = np.concatenate([data.labels, np.full(40, mark)])
        detector = DeepSad(**SMALL, eta=4.0).fit(train, labels, budget=Budget(steps=150))
        usual = detector.score(data.normal).score.mean()
        means.append(float(detector.score(odd_normals[40:]).score.mean() / usual))
    assert means[1] < means[0]


def test_trimming_spares_the_labelled_windows() -> None:
    data = small("record", windows=100)
    labels = np.array([1] * 10 + [-1] * 90)
    reports = []
    for eta in (0.0, 1e6):  # in the second, nearly all of the loss is that of the labelled ones
        detector = DeepSad(**{**SMALL, "batch": 90}, eta=eta, trim=0.5)
        reports.append(detector.fit(data, labels, budget=Budget(steps=8)).report)
    assert reports[0].trimmed == reports[1].trimmed
    assert reports[1].losses[-1] > 1e3 * reports[0].losses[-1]


def test_the_centre_knows_no_labelled_anomaly_and_stays() -> None:
    data, labels = small("record", windows=100), np.array([1] * 10 + [-1] * 90)
    detector = DeepSad(**SMALL).fit(data, labels, budget=Budget(steps=4))
    wild = replace(data, num=data.num.clone())
    wild.num[:10] *= 100
    other = DeepSad(**SMALL).fit(wild, labels, budget=Budget(steps=4))
    assert torch.equal(detector._centre, other._centre)
    assert torch.equal(detector._examples, other._examples)
    before = detector._centre.clone()
    detector.partial_fit(data, labels, budget=Budget(steps=4))
    assert torch.equal(detector._centre, before)


def test_new_labels_teach_a_new_kind_without_undoing_the_old_one() -> None:
    data = sample("FEWLABELS")
    detector = DeepSad(**SMALL).fit(data.train, data.labels, budget=TRAIN)
    other = replace(data.anomalous, num=data.anomalous.num.roll(3, dims=2))  # another direction
    before = ranking(detector.score(data.normal).score, detector.score(other).score)
    labels = np.array([1] * 10 + [-1] * 400)
    detector.partial_fit(join([other[:10], data.train[:400]]), labels)
    normal = detector.score(data.normal).score
    assert ranking(normal, detector.score(other[10:]).score) > max(0.9, before)
    assert ranking(normal, detector.score(data.anomalous).score) > 0.95


def test_a_single_label_is_an_update() -> None:
    detector = DeepSad(**SMALL).fit(small("events"), [1] + [-1] * 47, budget=Budget(steps=2))
    more = small("events", seed=3)[:1]
    detector.partial_fit(more, [1], budget=Budget(steps=2))
    assert len(detector._kept.of_kind(1)) == 2
    assert detector.score(more).score.isfinite().all()


def test_what_is_kept_is_bounded_in_each_kind_and_the_latest_labels_stay() -> None:
    data = small("series", windows=3 * KEPT)
    marks = torch.tensor([1, 0, -1], dtype=torch.int8).repeat_interleave(KEPT)
    store = LabelStore(data, marks)
    twice = store.joined(store)
    kept = twice.bounded(seed=0)
    assert [len(kept.of_kind(mark)) for mark in (1, 0, -1)] == [KEPT] * 3
    newer = replace(data, num=data.num + 1)
    kept = store.joined(LabelStore(newer, marks)).bounded(seed=0)
    for mark in (1, 0):
        assert torch.equal(kept.of_kind(mark).num, newer[marks == mark].num)
    assert not torch.equal(kept.of_kind(-1).num, newer[marks == -1].num)


def test_windows_of_other_lengths_are_kept_at_the_length_of_the_fit() -> None:
    data = small("series")
    detector = DeepSad(**SMALL).fit(data, [1] + [-1] * 47, budget=Budget(steps=2))
    brief = replace(data, num=data.num[:, :4], cat=data.cat[:, :4], mask=data.mask[:, :4])
    double = replace(
        data,
        num=torch.cat([data.num] * 2, dim=1),
        cat=torch.cat([data.cat] * 2, dim=1),
        mask=torch.ones(48, 12, dtype=torch.bool),
    )
    for other in (brief, double):
        detector.partial_fit(other, [1] + [-1] * 47, budget=Budget(steps=2))
        assert detector._kept.windows.steps == 6
    assert len(detector._kept.marks) == 3 * 48


def test_anomalies_alone_are_refused_and_normals_alone_suffice_beside_them() -> None:
    data = small("record")
    with pytest.raises(LabelsError, match="every window"):
        DeepSad(**SMALL).fit(data, [1] * 48, budget=Budget(steps=2))
    detector = DeepSad(**SMALL).fit(data, [1] * 4 + [0] * 44, budget=Budget(steps=2))
    assert detector.score(data).score.isfinite().all()
