"""DAGMM: the mixture by its definition, components that collapse, statistics that are renewed."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from detectors import Budget, as_batch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.dagmm import Dagmm
from detectors.loops.mixture import Mixture
from detectors.mixture_energy import error_features


@cache
def learned() -> Dagmm:
    """A detector that others may read and not change."""
    detector = Dagmm(code=3, components=3, learning_rate=1e-3, batch=256, ridge=1e-3)
    return detector.fit(sample("SUBSPACE").train, budget=Budget(steps=800))


def mixture(ridge: float = 1e-3) -> tuple[Mixture, Tensor]:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(200, 3, generator=generator)
    shares = torch.randn(200, 4, generator=generator).softmax(dim=1)
    return Mixture.fit(codes, shares, ridge), codes


def test_the_energy_is_the_negative_log_density_of_the_mixture() -> None:
    found, codes = mixture()
    covariance = found.covariance + 1e-3 * torch.eye(3, dtype=torch.float64)
    components = torch.distributions.MultivariateNormal(found.mean, covariance)
    shares = torch.distributions.Categorical(found.weight)
    whole = torch.distributions.MixtureSameFamily(shares, components)
    expected = -whole.log_prob(codes.double())  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found.energy(codes), expected)
    assert (found.energy(codes) >= found.floor()).all()


def test_moments_by_hand() -> None:
    codes = torch.tensor([[0.0], [2.0], [10.0]])
    shares = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    found = Mixture.fit(codes, shares, 1e-3)
    assert found.weight.tolist() == [1.5, 1.5]
    torch.testing.assert_close(found.mean[:, 0], torch.tensor([2 / 3, 22 / 3]).double())
    spread = (0 + 0.5 * (2 - 2 / 3) ** 2 + (2 / 3) ** 2) / 1.5
    assert float(found.covariance[0, 0, 0]) == pytest.approx(spread)


def test_memberships_sum_to_one() -> None:
    detector, data = learned(), sample("SUBSPACE").normal
    z = detector._net(*detector._rows(detector._prepare(data)))[1]
    shares = detector._net.memberships(z)
    assert shares.shape == (500, 3)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(500))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_components_that_nothing_or_one_point_belongs_to_keep_energies_finite(
    weight: float,
) -> None:
    codes = torch.ones(20, 3)
    shares = torch.tensor([1.0 - weight, weight]).expand(20, 2)
    found = Mixture.fit(codes, shares, 1e-6)
    assert found.energy(torch.randn(5, 3) * 1e3).isfinite().all()
    assert found.energy(codes).isfinite().all()


def test_duplicated_windows_do_not_break_training() -> None:
    twice = sample("SUBSPACE").train[:1].num[:, 0].repeat(300, 1)
    twice[150:] = sample("SUBSPACE").train[1:2].num[:, 0]
    detector = Dagmm(batch=256, learning_rate=1e-3).fit(twice, budget=Budget(steps=200))
    assert torch.isfinite(torch.tensor(detector.report.losses)).all()
    scores = detector.score(sample("SUBSPACE").anomalous).score
    assert scores.isfinite().all()
    assert float(scores.mean()) > float(detector.score(twice).score.mean())


def test_off_subspace_windows_have_a_higher_energy() -> None:
    data, detector = sample("SUBSPACE"), learned()
    scores = detector.score(data.normal).score
    assert ranking(scores, detector.score(data.anomalous).score) > 0.95
    assert detector.report.losses[-1] < detector.report.losses[0]


def test_error_features_by_hand_and_at_zero() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    found = error_features(rows, torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(found[0], torch.tensor([0.8, 0.6]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[2], torch.tensor([0.01, 1.0]), atol=1e-3, rtol=1e-3)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_an_update_pools_the_moments_of_old_and_new_windows() -> None:
    data = small("record", windows=200)
    detector = Dagmm(ridge=1e-3).fit(data[:120], budget=Budget(steps=2))
    whole = detector._moments(detector._prepare(data))
    detector.partial_fit(data[120:])
    for part in ("weight", "mean", "covariance"):
        found, expected = getattr(detector._mixture, part), getattr(whole, part)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_short_horizon_forgets() -> None:
    old, codes = mixture()
    newer = Mixture.fit(codes + 5, torch.ones(200, 4) / 4, 1e-3)
    moved = old.updated(newer, horizon=1.0)
    torch.testing.assert_close(moved.mean, newer.mean, atol=0.2, rtol=0.0)


def test_mini_batches_too_small_for_moments_are_left_out() -> None:
    detector, generator = Dagmm(batch=64), torch.Generator().manual_seed(0)
    data = as_batch(torch.zeros(70, 2))
    assert [len(part) for part in detector._draw(data, generator)] == [64]
    assert [len(part) for part in detector._draw(data[:5], generator)] == [5]
