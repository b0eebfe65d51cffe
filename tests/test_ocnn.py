"""One-class neural network: the best offset, no collapse, a blind side, still columns."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from detectors import Budget, as_batch
from detectors.batch import NEW
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.attribution import path_change
from detectors.loops.margin import margin_loss, offset_of
from detectors.ocnn import OneClassNet, OneClassNeuralNetwork

SMALL: dict[str, Any] = {"batch": 64}
TRAIN = Budget(steps=300)


@cache
def learned() -> OneClassNeuralNetwork:
    """A detector of ONESIDED that others may read and not change."""
    return OneClassNeuralNetwork(**SMALL).fit(sample("ONESIDED").train, budget=TRAIN)


def objective(values: torch.Tensor, offset: torch.Tensor, nu: float) -> float:
    return float(((offset - values).clamp(min=0) / nu - offset).mean())


@pytest.mark.parametrize("nu", [0.05, 0.1, 0.33, 0.999])
def test_no_offset_has_a_smaller_objective_than_the_quantile(nu: float) -> None:
    values = torch.randn(101, generator=torch.Generator().manual_seed(0)).double()
    offset = offset_of(values, nu)
    assert int((values < offset).sum()) == int(nu * 101)
    others = torch.cat([values, torch.linspace(-4, 4, 400).double()])
    least = min(objective(values, other, nu) for other in others)
    assert objective(values, offset, nu) == pytest.approx(least, abs=1e-12)


def test_the_loss_of_a_margin_by_hand_and_one_margin_for_each_of_several_values() -> None:
    values = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert margin_loss(values, 0.2).tolist() == [-2.0, 3.0, -2.0, -2.0, -2.0]
    two = torch.stack([values, 10 * values.flip(0)], dim=1)
    expected = torch.stack([margin_loss(two[:, i], 0.4) for i in range(2)], dim=1)
    assert torch.equal(margin_loss(two, 0.4), expected)
    assert margin_loss(torch.tensor([7.0]), 0.5).tolist() == [-7.0]


@pytest.mark.parametrize("size", [1, 60, 67])
def test_the_gradient_is_that_of_the_objective_at_its_best_offset(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    start, way = torch.randn(2, size, generator=generator, dtype=torch.float64)

    def least(at: float) -> float:
        values = start + at * way
        return min(objective(values, offset, 0.1) for offset in values)

    at = torch.zeros((), dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(margin_loss(start + at * way, 0.1).mean(), at)[0]
    assert float(slope) == pytest.approx((least(1e-6) - least(-1e-6)) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("nu", [0.05, 0.3])
def test_a_share_nu_of_the_training_records_is_outside_after_fit_and_update(nu: float) -> None:
    train = sample("ONESIDED").train
    detector = OneClassNeuralNetwork(**SMALL, nu=nu).fit(train, budget=Budget(steps=100))
    assert int((detector.score(train).score > 0).sum()) == pytest.approx(nu * 2000, abs=1)
    some = train[:333]
    detector.partial_fit(some, budget=Budget(steps=20))
    assert int((detector.score(some).score > 0).sum()) == pytest.approx(nu * 333, abs=1)


def test_training_ends_where_the_objective_is_least_and_not_in_the_trivial_solution() -> None:
    detector, train = learned(), sample("ONESIDED").train
    rows = detector._scaled(detector._prepare(train))
    values, nu = detector._net(rows), detector.config.nu

    @torch.no_grad()
    def whole(net: OneClassNet) -> float:
        return float(margin_loss(net(rows), nu).mean() + 0.5 * net.squared_weights())

    trivial = OneClassNet(8, 32)
    with torch.no_grad():
        trivial.project.weight.zero_()
        trivial.weigh.weight.fill_(0.5)
    assert whole(trivial) == pytest.approx(-32 / 8, rel=1e-4)  # the best of those with V = 0
    assert whole(detector._net) < whole(trivial) - 0.1
    assert float(values.std()) > 0.05


def test_a_hyperplane_sees_what_lies_towards_the_origin_and_not_what_lies_beyond() -> None:
    data, detector = sample("ONESIDED"), learned()
    normal = detector.score(data.normal).score
    assert ranking(normal, detector.score(data.anomalous).score) > 0.99
    beyond = replace(data.anomalous, num=6 - data.anomalous.num)
    assert ranking(normal, detector.score(beyond).score) < 0.01


def test_the_network_has_no_constant() -> None:
    assert [name for name, _ in OneClassNet(5, 4).named_parameters()] == [
        "project.weight",
        "weigh.weight",
    ]


def test_columns_lie_between_zero_and_one_where_the_fit_was_and_are_not_clipped() -> None:
    data = small("record", windows=200)
    detector = OneClassNeuralNetwork(**SMALL).fit(data, budget=Budget(steps=2))
    rows = detector._scaled(detector._prepare(data))
    torch.testing.assert_close(rows.amin(dim=0), torch.zeros(5))
    torch.testing.assert_close(rows.amax(dim=0), torch.ones(5))
    beyond = detector._scaled(detector._prepare(as_batch(np.full((1, 5), 50.0))))
    assert float(beyond.min()) > 1


@pytest.mark.parametrize(("steps", "fields"), [(2, [0]), (300, [0, 1])])
def test_a_new_value_raises_every_score(steps: int, fields: list[int]) -> None:
    data = small("mixed", windows=300)
    detector = OneClassNeuralNetwork(**SMALL).fit(data, budget=Budget(steps=steps))
    for field in fields:  # the first has columns of its own, the second one of surprisals
        cat = data.cat.clone()
        cat[:, :, field] = NEW
        rise = detector.score(replace(data, cat=cat)).score - detector.score(data).score
        assert float(rise.min()) > 0


@pytest.mark.parametrize("others", [True, False])
def test_a_number_that_never_moved_raises_every_score_when_it_does(others: bool) -> None:
    data = small("record", windows=300)
    still = replace(data, num=data.num * 0 + 2 if not others else data.num.clone())
    still.num[:, :, 3] = 2.0
    detector = OneClassNeuralNetwork(**SMALL).fit(still, budget=TRAIN)
    for level in (0.0, 1.5, 2.5, 4.0):
        moved = replace(still, num=still.num.clone())
        moved.num[:, :, 3] = level
        rise = detector.score(moved).score - detector.score(still).score
        assert float(rise.min()) > 0


def test_shares_add_up_to_what_the_score_changes() -> None:
    detector, data = learned(), sample("ONESIDED")
    rows = detector._input(detector._prepare(data.anomalous))
    start, mask = detector._examples[:1].expand_as(rows), data.anomalous.mask
    with torch.inference_mode(False):
        changes = path_change(lambda x: detector._score_columns(x, mask), start, rows)
    expected = detector._score_columns(rows, mask) - detector._score_columns(start, mask)
    torch.testing.assert_close(changes.sum(dim=(1, 2)), expected, rtol=1e-2, atol=1e-3)
    found = detector.score(data.anomalous, explain="full").feature
    assert found is not None
    assert float(found.min()) >= 0


def test_several_steps_are_read_as_one_record_and_shorter_windows_are_padded() -> None:
    data = small("series", windows=100)
    detector = OneClassNeuralNetwork(**SMALL).fit(data, budget=Budget(steps=10))
    brief = replace(data, num=data.num[:, :4], cat=data.cat[:, :4], mask=data.mask[:, :4])
    expected = detector.score(brief.padded(6))
    found = detector.score(brief, explain="full")
    torch.testing.assert_close(found.score, expected.score)
    assert found.step is not None
    assert found.step.shape == (100, 4)
    assert not found.step[~brief.mask].any()
