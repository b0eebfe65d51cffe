"""Latent autoregression: masks that hold, probabilities that add up, codes that stay apart."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors import Budget, WindowBatch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.lsa import LatentAutoregression
from detectors.nets.autoregressive import AutoregressiveDensity, MaskedLinear

SMALL: dict[str, Any] = {"code": 4, "batch": 64, "learning_rate": 5e-3}


@cache
def learned() -> LatentAutoregression:
    """A detector of SUBSPACE that others may read and not change."""
    return LatentAutoregression(**SMALL).fit(sample("SUBSPACE").train, budget=Budget(steps=300))


def terms_of(detector: LatentAutoregression, data: WindowBatch) -> Tensor:
    """Error and surprise, ``[N, 2]``."""
    prepared = detector._prepare(data)
    return detector._terms(prepared, detector._copied(prepared, "none"))


@pytest.mark.parametrize("layers", [2, 4])
def test_no_coordinate_is_said_from_itself_or_a_later_one(layers: int) -> None:
    torch.manual_seed(0)
    net, code = AutoregressiveDensity(5, 7, 6, layers), torch.rand(1, 5)
    jacobian = torch.autograd.functional.jacobian(net, code)[0, :, :, 0]  # type: ignore[no-untyped-call]
    influence = jacobian.abs().sum(dim=1)
    earlier = torch.ones(5, 5).tril(-1).bool()
    assert not influence[~earlier].any()
    assert bool((influence[earlier] > 0).all())


def test_probabilities_of_each_coordinate_add_up_to_one() -> None:
    net = AutoregressiveDensity(3, 50, 8, 4)
    total = net(torch.rand(20, 3)).exp().sum(dim=-1)
    torch.testing.assert_close(total, torch.ones(20, 3, dtype=torch.float64))


@torch.no_grad()
def test_surprisal_is_that_of_the_bin_and_interpolated_between_two() -> None:
    torch.manual_seed(0)
    net = AutoregressiveDensity(1, 4, 8, 3)
    log_p = net(torch.zeros(1, 1))[0, 0]  # the first coordinate depends on nothing
    centres = torch.tensor([[0.125], [0.375], [0.625], [0.875]])
    torch.testing.assert_close(-net.surprisal(centres)[:, 0], log_p)
    halfway = net.surprisal(torch.tensor([[0.5], [0.0], [1.0]]))[:, 0]
    expected = torch.stack([-(log_p[1] + log_p[2]) / 2, -log_p[0], -log_p[3]])
    torch.testing.assert_close(halfway, expected)


def test_the_density_of_codes_is_learned_from_their_order() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(2000, 1, generator=generator)
    codes = torch.cat([first, (first + 0.02 * torch.randn(2000, 1, generator=generator))], dim=1)
    codes = codes.clamp(0, 1)
    torch.manual_seed(0)
    net = AutoregressiveDensity(2, 20, 16, 4)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        net.surprisal(codes).sum(dim=1).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        told = net.surprisal(codes).mean(dim=0)
        swapped = net.surprisal(torch.stack([codes[:, 0], 1 - codes[:, 1]], dim=1)).mean(dim=0)
    assert float(told[0]) == pytest.approx(torch.tensor(20.0).log().item(), abs=0.1)
    assert float(told[1]) < 1.8 < 4.0 < float(swapped[1])


def test_bins_give_the_encoder_no_gradient() -> None:
    net = AutoregressiveDensity(1, 10, 8, 3)
    code = torch.rand(5, 1, requires_grad=True)
    gradient = torch.autograd.grad(net.surprisal(code).sum(), code)[0]
    assert not gradient.any()  # the only coordinate is the input of nothing


def test_codes_do_not_become_constant() -> None:
    detector = learned()
    data = detector._prepare(sample("SUBSPACE").normal)
    spread = detector._net.encoder(detector._rows(data)).std(dim=0)
    assert float(spread.median()) > 0.05


def test_both_terms_count_in_units_of_their_spread() -> None:
    detector, late = learned(), sample("SUBSPACE").train[-200:]
    terms = terms_of(detector, late)
    usual = detector._usual_terms
    deviations = (terms - usual.mean) / usual.covariance.diagonal().sqrt()
    torch.testing.assert_close(detector.score(late).score, deviations.sum(dim=1).float())
    assert float(deviations[:, 0].std()) > 0.5
    assert float(deviations[:, 1].std()) > 0.5


def test_an_unlikely_code_scores_higher_at_an_equal_error() -> None:
    data = small("record")
    detector = LatentAutoregression(**SMALL).fit(data, budget=Budget(steps=50))
    before = detector.score(data).score
    with torch.no_grad():
        last = detector._net.density.layers[-1]
        assert isinstance(last, MaskedLinear)
        last.weight.zero_()
        last.bias.zero_()  # every bin is as likely: what was a likely code no longer is
    surprise = terms_of(detector, data)[:, 1]
    torch.testing.assert_close(surprise, torch.full_like(surprise, 4 * 4.605), rtol=1e-3, atol=0.0)
    assert float((detector.score(data).score - before).mean()) > 0


def test_points_off_the_subspace_score_above_normal_ones() -> None:
    data, detector = sample("SUBSPACE"), learned()
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.9


def test_the_loss_by_hand() -> None:
    """The error is a mean over real entries, the surprise a sum over the code."""
    data = small("series")
    detector = LatentAutoregression(code=3, surprise=0.2).fit(data, budget=Budget(steps=2))
    windows = detector._prepare(data)
    rows, real = detector._rows(windows), detector._real(windows)
    code = detector._net.encoder(rows)
    error = ((detector._net.decoder(code) - rows).square() * real).sum(dim=1)
    expected = error / (4 * windows.lengths) + 0.2 * detector._net.density.surprisal(code).sum(
        dim=1
    )
    torch.testing.assert_close(detector._loss(rows, real), expected)
