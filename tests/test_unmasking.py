"""Unmasking: classifiers by their optimum, halves of one kind and of two, features dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from detectors import as_batch
from detectors.batch import WindowBatch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.logistic import Halves, accuracy, separate
from detectors.unmasking import Unmasking


def halves(steps: int = 20, shift: float = 0.0, windows: int = 30, columns: int = 4) -> Halves:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(windows, steps, columns)))
    x[:, steps // 2 :, 0] += shift
    sign = torch.ones(windows, steps, dtype=torch.float64)
    sign[:, : steps // 2] = -1
    return Halves(x, sign)


def shifted(size: float, windows: int = 400, steps: int = 40) -> WindowBatch:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(windows, steps, 6))
    x[:, steps // 2 :, 2:4] += size
    return as_batch(x)


@pytest.mark.parametrize("shift", [0.0, 1.0, 5.0])
def test_classifiers_are_at_their_optimum(shift: float) -> None:
    found = halves(shift=shift)
    weights, constant = (part.requires_grad_() for part in separate(found, 0.1))
    margin = found.sign * (torch.einsum("bte,be->bt", found.x, weights) + constant.unsqueeze(1))
    loss = 0.1 * torch.nn.functional.softplus(-margin).sum() + weights.square().sum() / 2
    loss.backward()  # type: ignore[no-untyped-call]
    assert weights.grad is not None
    assert constant.grad is not None
    assert float(weights.grad.abs().max()) < 1e-6
    assert float(constant.grad.abs().max()) < 1e-6


def test_extreme_values_do_not_make_fits_diverge() -> None:
    found = halves()
    found.x.mul_(10 / found.x.abs().amax())
    found.x[:, 3] = 10.0
    found.x[:, 12] = -10.0
    weights, _ = separate(found, 1.0)
    assert float(weights.abs().max()) < 5


def test_accuracies_by_hand() -> None:
    x = torch.tensor([[[-1.0], [2.0], [3.0], [0.0]]], dtype=torch.float64)
    sign = torch.tensor([[-1.0, -1.0, 1.0, 1.0]], dtype=torch.float64)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    # first half: one right, one wrong; second half: one right, one undecided
    assert float(accuracy(Halves(x, sign), one, zero)) == pytest.approx((0.5 + 0.75) / 2)
    longer = torch.tensor([[-1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    assert float(accuracy(Halves(x, longer), one, zero)) == pytest.approx((1 + 2.5 / 3) / 2)
    assert float(accuracy(Halves(x, sign.abs()), one, zero)) == 0.5  # nothing to compare with


@pytest.mark.parametrize("form", ["unmasking", "two-sample"])
def test_larger_changes_score_higher(form: str) -> None:
    detector = Unmasking(form=form).fit(shifted(0.0))
    means = [float(detector.score(shifted(size)).score.mean()) for size in (0.0, 0.5, 1.0, 2.0)]
    assert means == sorted(means)
    same, other = (detector.score(shifted(size)).score for size in (0.0, 1.5))
    assert ranking(same, other) > 0.9


def test_the_z_value_of_halves_of_one_kind_is_a_standard_normal() -> None:
    detector = Unmasking(form="two-sample").fit(shifted(0.0))
    scores = detector.score(shifted(0.0, windows=2000)).score
    assert float(scores.mean()) == pytest.approx(0.0, abs=0.1)
    assert float(scores.std()) == pytest.approx(1.0, abs=0.1)
    assert float((scores > 1.96).float().mean()) < 0.04


def test_a_change_in_one_feature_is_unmasked_while_a_broad_one_stays_visible() -> None:
    """After the loudest features are gone, only the broad change is left to see."""
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(300, 40, 12))
    narrow, broad = noise.copy(), noise.copy()
    narrow[:, 20:, 0] += 3.0
    broad[:, 20:] += 3.0 / np.sqrt(12)
    detector = Unmasking().fit(noise)
    plain, one, many = (float(detector.score(x).score.mean()) for x in (noise, narrow, broad))
    assert plain < one < many


def test_the_features_that_changed_are_blamed() -> None:
    feature = Unmasking().fit(shifted(0.0)).score(shifted(1.5), explain="full").feature
    assert feature is not None
    shares = feature.sum(dim=1).mean(dim=0)
    assert set(shares.topk(2).indices.tolist()) == {2, 3}


def test_the_order_of_the_halves_does_not_matter() -> None:
    data = shifted(1.0)
    detector = Unmasking().fit(data)
    swapped = as_batch(torch.cat([data.num[:, 20:], data.num[:, :20]], dim=1))
    torch.testing.assert_close(detector.score(swapped).score, detector.score(data).score)


def test_a_window_is_cut_in_the_middle_of_its_real_steps() -> None:
    data = shifted(2.0, steps=20)
    detector = Unmasking().fit(shifted(0.0))
    expected = detector.score(data).score
    torch.testing.assert_close(detector.score(data.padded(40)).score, expected)


@pytest.mark.parametrize("length", [0, 1])
def test_nothing_to_compare_with_is_no_change(length: int) -> None:
    detector = Unmasking().fit(shifted(0.0))
    data = shifted(5.0, windows=3)
    mask = torch.zeros_like(data.mask)
    mask[:, :length] = True
    assert detector.score(replace(data, mask=mask)).score.tolist() == [0.5] * 3
    z = Unmasking(form="two-sample").fit(shifted(0.0)).score(replace(data, mask=mask)).score
    assert z.tolist() == [0.0] * 3


def test_constant_windows_are_no_change() -> None:
    detector = Unmasking().fit(shifted(0.0))
    data = as_batch(np.full((4, 40, 6), 2.7))
    assert detector.score(data).score.tolist() == [0.5] * 4


def test_a_new_category_in_the_second_half_is_a_change() -> None:
    data = small("sequence")
    detector = Unmasking().fit(data)
    cat = data.cat.clone()
    cat[:, 3:] = cat[:, 3:].clamp(max=1)
    changed = detector.score(replace(data, cat=cat)).score
    assert float(changed.mean()) > float(detector.score(data).score.mean())


def test_one_feature_is_enough() -> None:
    data = as_batch(shifted(0.0).num[:, :, :1])
    moved = as_batch(shifted(2.0).num[:, :, 2:3])
    detector = Unmasking().fit(data)
    assert ranking(detector.score(data).score, detector.score(moved).score) > 0.9


def test_the_source_is_told_apart() -> None:
    data = sample("BLOCKS")
    detector = Unmasking().fit(data.train)
    normal: Tensor = detector.score(data.normal).score
    assert ranking(normal, detector.score(data.anomalous).score) > 0.7
