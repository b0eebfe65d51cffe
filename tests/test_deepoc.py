"""DeepOC: what keeps codes apart, the share below the hyperplanes, scores from their parts."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from detectors import Budget
from detectors.batch import NEW, WindowBatch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.deepoc import DeepOneClass
from detectors.nets.conv import code_mean
from detectors.nets.heads import window_loss
from detectors.nets.two_views import DeepOneClassNet
from detectors.scores import Scores

SMALL: dict[str, Any] = {"batch": 64, "learning_rate": 3e-3}


@cache
def learned(beta: float = 1.0) -> DeepOneClass:
    """A detector of WAVES that others may read and not change."""
    detector = DeepOneClass(**SMALL, beta=beta)
    return detector.fit(sample("WAVES").train, budget=Budget(steps=70))


def parts(detector: DeepOneClass, data: WindowBatch) -> Tensor:
    """Values of both views, and the error."""
    with torch.no_grad():
        return detector._terms(detector._prepare(data))


def directions(detector: DeepOneClass, data: WindowBatch) -> list[Tensor]:
    """Directions of the codes in both views."""
    net, ready = detector._net, detector._prepare(data)
    with torch.no_grad():
        codes = net.encode(net.input(ready), ready.mask)
    return [normalize(code_mean(own, ready.mask)) for own in codes]


def test_reconstruction_keeps_codes_from_becoming_one() -> None:
    train = sample("WAVES").train
    with_decoder, without = directions(learned(), train), directions(learned(beta=0.0), train)
    for kept, collapsed in zip(with_decoder, without, strict=True):
        spread, rest = float(kept.var(dim=0).sum()), float(collapsed.var(dim=0).sum())
        assert spread > 10 * rest


@pytest.mark.parametrize("nu", [0.05, 0.3])
def test_a_share_nu_of_the_windows_is_below_each_hyperplane_after_fit_and_update(
    nu: float,
) -> None:
    train = sample("WAVES").train[:700]
    detector = DeepOneClass(**SMALL, nu=nu).fit(train, budget=Budget(steps=10))
    for data in (train, train[:333]):
        values = parts(detector, data)[:, :2]
        below = (values < detector._offset).sum(dim=0).tolist()
        assert below == pytest.approx([nu * len(data)] * 2, abs=1)
        detector.partial_fit(train[:333], budget=Budget(steps=3))


def test_codes_lie_on_one_side_of_the_origin_at_one_distance() -> None:
    for codes in directions(learned(), sample("WAVES").normal):
        assert float(codes.min()) >= 0
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(len(codes)))


def test_the_loss_by_hand() -> None:
    data = small("sequence")
    detector = DeepOneClass(**SMALL, beta=0.5, nu=0.25).fit(data, budget=Budget(steps=2))
    net, ready = detector._net, detector._prepare(data)
    with torch.no_grad():
        loss = detector._loss(ready)
        codes = net.encode(net.input(ready), ready.mask)
        values, moves = net.margin_values(codes, ready.mask), net.rebuild_moves(codes, ready.mask)
        errors = window_loss(net(ready), ready) * ready.lengths
    gaps = (moves.num - net.moves(ready.num, ready.mask)) * ready.mask.unsqueeze(2)
    expected = 0.5 * (errors + gaps.square().sum(dim=(1, 2)))
    for view, weights in enumerate((net.values.weigh, net.changes.weigh)):
        own = values[:, view]
        offset = own.sort().values[12]  # a quarter of 48 windows lie below
        expected += (0.5 * weights @ weights + (offset - own).clamp(min=0) / 0.25 - offset).float()
    torch.testing.assert_close(loss, expected)


def test_changes_start_at_zero_and_end_with_the_window() -> None:
    net = DeepOneClassNet(2, (), 4, 3)
    num = torch.tensor([[[1.0, 5.0], [3.0, 5.0], [2.0, 4.0]]]).repeat(2, 1, 1)
    num[1, 2] = 0.0
    data = WindowBatch(num, torch.zeros(2, 3, 0, dtype=torch.int64), num[:, :, 0] > 0)
    moved = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [-1.0, -1.0]], [[0.0, 0.0], [2.0, 0.0], [0, 0]]])
    assert torch.equal(net.moves(num, data.mask), moved)
    net.learn_usual(data)
    assert net.pace.tolist() == pytest.approx([(9 / 5) ** 0.5, (1 / 5) ** 0.5])


def test_a_feature_that_never_changes_and_windows_without_steps_give_a_pace_too() -> None:
    data, net = small("series"), DeepOneClassNet(4, (), 4, 3)
    still = replace(data, num=data.num.clone())
    still.num[:, :, 2] = 1.0
    net.learn_usual(still)
    assert float(net.pace[2]) == 1.0
    net.learn_usual(replace(data, mask=torch.zeros_like(data.mask)))
    assert net.pace.tolist() == [1.0] * 4


@pytest.mark.parametrize("residual", [True, False])
def test_the_score_is_the_sum_of_its_parts(residual: bool) -> None:
    detector, data = learned(), sample("WAVES").anomalous
    plain = DeepOneClass(**SMALL, residual=residual)
    plain.take_over(detector._fitted(), detector.tensors())
    found, terms = plain.score(data).score, parts(detector, data)
    margins = (detector._offset - terms[:, :2]) / detector._spread[:2]
    expected = margins.mean(dim=1)
    if residual:
        expected += (terms[:, 2] - detector._middle[2]) / detector._spread[2]
    torch.testing.assert_close(found, expected.float())


def test_parts_are_in_units_of_what_they_usually_vary() -> None:
    detector, data = learned(), sample("WAVES").normal
    terms = parts(detector, data)
    units = (terms - detector._middle) / detector._spread
    assert float(units.median(dim=0).values.abs().max()) < 0.5
    quarters = units.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), dim=0)
    assert (quarters[1] - quarters[0]).tolist() == pytest.approx([1.349] * 3, rel=0.35)


def test_spikes_and_noise_are_told_with_the_residual_and_less_well_without() -> None:
    detector, data = learned(), sample("WAVES")
    plain = DeepOneClass(**SMALL, residual=False)
    plain.take_over(detector._fitted(), detector.tensors())

    def auc(of: DeepOneClass, kind: int) -> float:
        odd = of.score(data.anomalous[torch.arange(kind, 500, 3)]).score
        return ranking(of.score(data.normal).score, odd)

    for kind in (0, 1):
        assert auc(detector, kind) > 0.99
        assert auc(plain, kind) < auc(detector, kind)


def test_a_new_value_raises_the_score() -> None:
    data = small("sequence", windows=300)
    detector = DeepOneClass(**SMALL).fit(data, budget=Budget(steps=60))
    cat = data.cat.clone()
    cat[:, 0] = NEW
    new = detector.score(replace(data, cat=cat)).score
    assert float((new - detector.score(data).score).mean()) > 1


def test_explanations_find_a_spike_with_and_without_the_residual() -> None:
    detector, data = learned(), sample("WAVES").normal[:50]
    spiked = replace(data, num=data.num.clone())
    spiked.num[:, 20, 3] += 6.0
    for residual in (True, False):
        other = DeepOneClass(**SMALL, residual=residual)
        other.take_over(detector._fitted(), detector.tensors())
        found: Scores = other.score(spiked, explain="full")
        assert found.feature is not None
        assert int(found.feature.sum(dim=1).mean(dim=0).argmax()) == 3
        torch.testing.assert_close(found.step, found.feature.sum(dim=2))
