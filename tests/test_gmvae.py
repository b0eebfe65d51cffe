"""GMM-VAE: without its additions the plain VAE, a prior by its definition, nothing drawn."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from detectors import Budget, WindowBatch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.gmvae import MixturePrior, MixtureVae
from detectors.vae import divergence


@cache
def learned() -> MixtureVae:
    """A detector that others may read and not change."""
    detector = MixtureVae(components=3, learning_rate=5e-3, batch=64)
    return detector.fit(sample("SUBSPACE").train, budget=Budget(steps=400))


def with_standard_prior(energy_weight: float = 0.1) -> MixtureVae:
    """One component, fixed at ``N(0, I)``."""
    detector = MixtureVae(components=1, penalty=0.0, energy_weight=energy_weight)
    detector.fit(small("record"), budget=Budget(steps=10))
    for part in detector._net.prior.parameters():
        part.zero_()
    return detector


def test_with_a_standard_prior_and_no_energy_the_loss_is_that_of_the_vae() -> None:
    detector = with_standard_prior(energy_weight=0.0)
    batch = detector._prepare(small("record", seed=2))
    rows, real = detector._rows(batch)
    vae, draws, total, errors = detector._net.vae, 2000, torch.zeros(48), torch.zeros(48)
    mean, log_variance = vae.posterior(rows)
    for _ in range(draws):
        state = detector._noise.get_state()
        total += detector._loss(batch)
        detector._noise.set_state(state)  # the same codes for what the VAE would lose
        drawn = vae.draw(mean, log_variance, detector._noise)
        errors += vae.surprise(rows - vae.decoder(drawn), real)
    expected = errors / draws + divergence(mean, log_variance)
    torch.testing.assert_close(total / draws, expected, atol=0.1, rtol=0.01)


def test_the_energy_is_part_of_the_loss() -> None:
    detector = with_standard_prior()
    batch = detector._prepare(small("record", seed=2))
    state = detector._noise.get_state()
    with_energy = detector._loss(batch)
    detector._noise.set_state(state)
    plain = detector._variational_loss(*detector._rows(batch))
    z = detector._net(*detector._rows(batch))[1]
    energy = detector._moments(batch).energy(z)
    torch.testing.assert_close(with_energy, plain + 0.1 * energy)


def test_the_prior_is_a_mixture_with_diagonal_covariances() -> None:
    torch.manual_seed(3)
    prior, codes = MixturePrior(4, 3), torch.randn(50, 3)
    with torch.no_grad():
        prior.log_variance.copy_(torch.randn(4, 3))
        prior.logits.copy_(torch.randn(4))
    normal = torch.distributions.Normal(prior.mean, (prior.log_variance / 2).exp())
    shares = torch.distributions.Categorical(logits=prior.logits)
    whole = torch.distributions.MixtureSameFamily(
        shares, torch.distributions.Independent(normal, 1)
    )
    torch.testing.assert_close(prior.log_density(codes), whole.log_prob(codes))  # type: ignore[no-untyped-call]


def test_memberships_are_those_of_the_prior_and_sum_to_one() -> None:
    detector, data = learned(), sample("SUBSPACE").normal
    z = detector._net(*detector._rows(detector._prepare(data)))[1]
    shares = detector._net.memberships(z)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(500))
    moved = z.clone()
    moved[:, -2:] += 5.0  # the errors say nothing about where a window belongs
    assert torch.equal(detector._net.memberships(moved), shares)


def test_off_subspace_windows_have_a_higher_energy() -> None:
    data, detector = sample("SUBSPACE"), learned()
    scores = detector.score(data.normal).score
    assert ranking(scores, detector.score(data.anomalous).score) > 0.95


def test_codes_are_in_use() -> None:
    detector, data = learned(), sample("SUBSPACE").train
    rows, _ = detector._rows(detector._prepare(data))
    mean, _ = detector._net.vae.posterior(rows)
    assert int((mean.std(dim=0) > 0.3).sum()) >= 3


def test_equal_windows_do_not_break_training() -> None:
    data = small("record")
    same = data[torch.zeros(300, dtype=torch.int64)]
    detector = MixtureVae(learning_rate=1e-2).fit(same, budget=Budget(steps=100))
    assert torch.tensor(detector.report.losses).isfinite().all()
    assert float(detector.score(same).score.max()) < float(detector.score(data[1:]).score.max())


def test_the_cost_of_the_codes_is_whole_after_training() -> None:
    seen = list[float]()

    class Watched(MixtureVae):
        def _loss(self, batch: WindowBatch) -> torch.Tensor:
            seen.append(self.warmth)
            return super()._loss(batch)

    detector = Watched(warm_up=4, epochs=3).fit(small("record"))
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert detector.warmth == 1.0
    assert detector.report.stopped == "epochs"
    cut = Watched(warm_up=100).fit(small("record"), budget=Budget(steps=6))
    assert seen[-3:] == [1.0] * 3  # half of the budget is left for whole costs
    assert cut.report.stopped == "budget"


@pytest.mark.parametrize("steps", [1, 3])
def test_tight_budgets_still_leave_moments(steps: int) -> None:
    detector = MixtureVae().fit(small("mixed"), budget=Budget(steps=steps))
    assert detector.score(small("mixed", seed=2)).score.isfinite().all()
