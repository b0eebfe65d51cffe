"""Transfer: an encoder that stays as it is, a head without a basis, gaps that are gaps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.moments import Moments
from detectors.loops.prediction import Gapped
from detectors.nets.modules import module_state
from detectors.transfer import Filler, Transfer


@cache
def learned() -> Transfer:
    """A detector that others may read and not change."""
    detector = Transfer(hidden=32, learning_rate=3e-3)
    return detector.fit(sample("WAVES").train, budget=Budget(steps=100))


@pytest.mark.parametrize("name", ["series", "sequence", "events"])
def test_the_encoder_is_frozen_while_the_head_moves(name: str) -> None:
    detector = Transfer(hidden=8).fit(small(name), budget=Budget(steps=3))
    before = {n: t.clone() for n, t in module_state(detector._encoder, "").items()}
    mean = detector._head.mean.clone()
    detector.partial_fit(small(name, seed=5, windows=200))
    after = module_state(detector._encoder, "")
    assert all(torch.equal(after[n], tensor) for n, tensor in before.items())
    assert not torch.equal(detector._head.mean, mean)
    assert not any(parameter.requires_grad for parameter in detector._encoder.parameters())


def test_the_distance_does_not_depend_on_the_basis_of_the_codes() -> None:
    """As the ridge, and what few windows shrink, go to nothing."""
    generator = torch.Generator().manual_seed(0)
    codes = 100 * torch.randn(50_000, 3, generator=generator).double()
    turn = torch.tensor([[2.0, 1.0, 0.0], [0.5, -1.0, 3.0], [1.0, 1.0, 1.0]]).double()
    plain, turned = Moments.fit(codes), Moments.fit(codes @ turn)
    few = codes[:50].float()
    expected = plain.distance(few)
    torch.testing.assert_close(turned.distance(few @ turn.float()), expected, rtol=1e-3, atol=1e-3)
    ridged = Moments.fit(codes @ turn, floor=0.5)  # with a ridge it does depend
    assert not torch.allclose(ridged.distance(few @ turn.float()), expected, rtol=0.05)


def test_the_ridge_is_a_share_of_the_mean_variance() -> None:
    codes = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])
    found = Moments.fit(codes, floor=0.1)
    assert float(found.covariance[1, 1]) == pytest.approx(0.1 * 4.5, abs=1e-3)


def test_a_hidden_step_is_not_seen() -> None:
    data = small("sequence")
    detector = Transfer(hidden=8).fit(data, budget=Budget(steps=1))
    filler = Filler(detector._encoder, 8, data)
    hidden = torch.zeros_like(data.mask)
    hidden[:, 2] = True
    other = replace(data, num=data.num.clone(), cat=data.cat.clone())
    other.num[:, 2], other.cat[:, 2] = 9.0, 3
    one, two = (filler(Gapped(part, hidden)) for part in (data, other))
    assert torch.equal(one.num, two.num)
    open_gap = filler(Gapped(other, torch.zeros_like(hidden)))
    assert not torch.equal(open_gap.num, one.num)


def test_gaps_are_filled_better_with_training() -> None:
    losses = learned().report.losses
    assert losses[-1] < 0.7 * losses[0]


def test_odd_waves_are_far_from_the_usual_codes() -> None:
    data, detector = sample("WAVES"), learned()
    scores = detector.score(data.normal).score
    assert ranking(scores, detector.score(data.anomalous).score) > 0.95
    assert 1 < float(scores.mean()) < 40  # at most one for each number of a code, but for chance


def test_the_head_moves_towards_another_tenant() -> None:
    data = sample("WAVES")
    detector = Transfer(hidden=16, learning_rate=3e-3)
    detector.fit(data.train, budget=Budget(steps=60))
    tenant = replace(data.normal, num=data.normal.num * 0.3)
    before = detector.score(tenant).score.mean()
    detector.partial_fit(tenant[:400])
    assert float(detector.score(tenant[400:]).score.mean()) < 0.5 * float(before)
