"""The deviation network: its loss by hand, its mini-batches, and what labels teach it."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import Sample, sample
from detectors.checks.subject import join, small
from detectors.devnet import DevNet
from detectors.few_labels import KEPT_ANOMALIES, KEPT_OTHERS
from detectors.loops.deviation import Prior, deviation_loss, half_and_half

TRAIN = Budget(steps=800)


@cache
def learned() -> tuple[DevNet, Sample]:
    """A detector that others may read and not change."""
    data = sample("FEWLABELS")
    return DevNet().fit(data.train, data.labels, budget=TRAIN), data


@pytest.mark.parametrize(
    ("score", "anomalous", "expected"),
    [
        (0.0, False, 0.0),
        (-1.5, False, 1.5),
        (2.0, False, 2.0),
        (5.0, True, 0.0),
        (9.0, True, 0.0),
        (-1.0, True, 6.0),
        (4.0, True, 1.0),
    ],
)
def test_the_loss_by_hand(score: float, anomalous: bool, expected: float) -> None:
    for mean, spread in ((0.0, 1.0), (0.3, 2.0)):
        scores = torch.tensor([mean + spread * score])
        loss = deviation_loss(scores, torch.tensor([anomalous]), (mean, spread), margin=5.0)
        assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_reference_scores_are_drawn_anew_from_the_prior() -> None:
    generator, prior = torch.Generator().manual_seed(0), Prior(mean=2.0, spread=3.0)
    first, second = prior.reference(generator), prior.reference(generator)
    assert first != second
    for mean, spread in (first, second):
        assert mean == pytest.approx(2.0, abs=0.2)
        assert spread == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize(("batch", "half"), [(512, 256), (2, 1), (7, 3)])
def test_half_of_a_batch_are_anomalies(batch: int, half: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, marks = half_and_half(torch.zeros(90, 2), torch.ones(3, 2), batch, generator)
    assert inputs.shape == (2 * half, 2)
    assert int(marks.sum()) == half
    assert torch.equal(inputs[:, 0] == 1, marks)


def test_normals_score_near_zero_and_labelled_kinds_beyond_three() -> None:
    detector, data = learned()
    assert abs(float(detector.score(data.normal).score.mean())) < 1
    anomalous = detector.score(data.anomalous).score
    assert float(anomalous.mean()) > 3
    assert float((anomalous > 1.96).float().mean()) > 0.95


def test_scores_have_no_bounds() -> None:
    detector, data = learned()
    far = replace(data.anomalous, num=3 * data.anomalous.num)
    assert float(detector.score(far).score.mean()) > 1.5 * float(
        detector.score(data.anomalous).score.mean()
    )


def test_labelled_normals_count_as_unlabelled() -> None:
    data = sample("FEWLABELS")
    assert data.labels is not None
    normals = np.where(data.labels == -1, 0, data.labels)
    fits = [
        DevNet().fit(data.train, labels, budget=Budget(steps=5))
        for labels in (data.labels, normals)
    ]
    assert fits[0].to_files() == fits[1].to_files()


def test_only_hidden_kernels_decay() -> None:
    detector = DevNet(hidden=(8, 4))
    detector.fit(small("record"), [1] * 5 + [-1] * 43, budget=Budget(steps=1))
    decayed, rest = detector._groups()
    assert [list(p.shape) for p in decayed["params"]] == [[8, 10], [4, 8]]  # type: ignore[attr-defined]
    assert decayed["weight_decay"] == pytest.approx(0.02)  # the gradient of 0.01 ||W||²
    assert rest["weight_decay"] == 0.0
    count = len(decayed["params"]) + len(rest["params"])  # type: ignore[arg-type]
    assert count == len(list(detector._net.parameters()))


def test_new_labels_teach_a_new_kind_without_undoing_the_old_one() -> None:
    data = sample("FEWLABELS")
    detector = DevNet().fit(data.train, data.labels, budget=TRAIN)
    other = replace(data.anomalous, num=data.anomalous.num.roll(3, dims=2))  # another direction
    normal = detector.score(data.normal).score
    assert ranking(normal, detector.score(other).score) < 0.6  # nothing was said of that kind
    labels = np.array([1] * 10 + [-1] * 400)
    detector.partial_fit(join([other[:10], data.train[:400]]), labels)
    assert len(detector._anomalies) == 10 + 10
    normal = detector.score(data.normal).score
    for kind in (other[10:], data.anomalous):
        assert ranking(normal, detector.score(kind).score) > 0.95


def test_what_is_kept_for_updates_is_bounded() -> None:
    data, labels = small("record", windows=4000), np.array([1] * 1500 + [-1] * 2500)
    detector = DevNet().fit(data, labels, budget=Budget(steps=1))
    latest = data.num[1499, 0]
    assert len(detector._anomalies) == KEPT_ANOMALIES
    assert len(detector._others) == KEPT_OTHERS
    kept = detector._anomalies[-1, : len(latest)]  # its ranks follow
    torch.testing.assert_close(detector._scaler.inverse(kept), latest)
