"""The variational autoencoder: its divergence, its likelihood, and a code that stays in use."""

from functools import cache

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.vae import LEAST, MOST, VariationalAutoencoder, divergence


@cache
def learned() -> VariationalAutoencoder:
    """A detector of SUBSPACE that others may read and not change."""
    detector = VariationalAutoencoder(batch=64, learning_rate=5e-3)
    return detector.fit(sample("SUBSPACE").train, budget=Budget(steps=600))


def test_the_divergence_is_that_of_gaussians_and_never_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = 2 * torch.randn(2, 50, 4, generator=generator)
    prior = Normal(torch.zeros(50, 4), torch.ones(50, 4))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), prior).sum(dim=1)
    found = divergence(mean, log_variance)
    torch.testing.assert_close(found, expected)
    assert float(found.min()) > 0
    assert divergence(torch.zeros(3, 4), torch.zeros(3, 4)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["record", "series"])
def test_the_score_is_likelihood_and_divergence_per_real_entry(name: str) -> None:
    data = small(name, seed=2)
    detector = VariationalAutoencoder().fit(small(name), budget=Budget(steps=20))
    prepared, net = detector._prepare(data), detector._net
    rows = detector._rows(prepared)
    mean, log_variance = net.posterior(rows)
    spread = (net.noise() / 2).exp().repeat(data.steps)
    surprise = -Normal(net.decoder(mean), spread).log_prob(rows)  # type: ignore[no-untyped-call]
    total = (surprise * detector._real(prepared)).sum(dim=1) + divergence(mean, log_variance)
    torch.testing.assert_close(
        detector.score(data).score, total / (data.lengths * data.features), atol=1e-5, rtol=1e-4
    )


def test_scoring_draws_nothing() -> None:
    data = sample("SUBSPACE").normal
    assert torch.equal(learned().score(data).score, learned().score(data).score)


def test_the_code_stays_in_use() -> None:
    detector = learned()
    rows = detector._rows(detector._prepare(sample("SUBSPACE").normal))
    mean, log_variance = detector._net.posterior(rows)
    entries = torch.stack([divergence(mean[:, [k]], log_variance[:, [k]]) for k in range(8)], dim=1)
    assert int((entries.mean(dim=0) > 0.5).sum()) >= 3  # as many as the data has dimensions
    left = (rows - detector._net(rows)).square().mean() / rows.square().mean()
    assert float(left) < 0.1


def test_the_weight_of_the_prior_rises_over_the_warm_up() -> None:
    detector = VariationalAutoencoder(warm_up=4, epochs=6, batch=48)
    seen: list[float] = []
    loss = detector._loss
    detector._loss = lambda *rows: seen.append(detector.warmth) or loss(*rows)  # type: ignore[method-assign, func-returns-value]
    detector.fit(small("record"))
    assert seen[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert set(seen[4:]) == {1.0}


def test_variances_stay_within_their_range() -> None:
    detector = VariationalAutoencoder().fit(small("record"), budget=Budget(steps=2))
    detector._net.log_variance.fill_(-50.0)
    assert (detector._net.noise() == LEAST).all()
    _, log_variance = detector._net.posterior(torch.full((2, 5), 1e6))
    assert LEAST <= float(log_variance.min()) <= float(log_variance.max()) <= MOST


def test_points_off_the_subspace_score_above_normal_ones() -> None:
    data, detector = sample("SUBSPACE"), learned()
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.95
