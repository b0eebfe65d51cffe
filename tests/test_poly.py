"""Local polynomials: exact on polynomials, causal, sensitive to breaks and only to them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.moments import Moments
from detectors.poly import LocalPolynomial, _weights
from schemas.errors import DataError


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_polynomials_of_the_degree_are_continued_exactly(degree: int) -> None:
    time = torch.arange(20.0, dtype=torch.float64) / 10
    weights = _weights(20, 8, degree).double()
    for power in range(degree + 1):
        gap = (weights @ time**power - time**power)[degree + 1 :]
        assert float(gap.abs().max()) < 1e-5
    beyond = (weights @ time ** (degree + 1) - time ** (degree + 1))[degree + 1 :]
    assert float(beyond.abs().min()) > 1e-4


def test_weights_equal_a_least_squares_fit() -> None:
    values = np.random.default_rng(0).normal(size=12)
    found = _weights(12, 6, 2).double().numpy() @ values
    for step in (3, 5, 6, 11):
        before = np.arange(max(0, step - 6), step)
        expected = np.polyval(np.polyfit(before, values[before], 2), step)
        assert found[step] == pytest.approx(expected, abs=1e-5)


def test_no_step_looks_ahead_and_the_first_is_not_predicted() -> None:
    weights = _weights(30, 8, 2)
    assert not weights.triu().any()
    assert not weights[0].any()
    detector, data = LocalPolynomial().fit(small("series")), small("series", seed=2)
    data = data[data.lengths == data.steps]
    later = data.num.clone()
    later[:, 4:] += 30.0
    one, other = (
        detector._distances(detector._prepare(found))[0]
        for found in (data, replace(data, num=later))
    )
    assert torch.equal(one[:, :4], other[:, :4])
    assert not one[:, 0].any()


def test_one_step_windows_alone_score_nothing() -> None:
    data = small("series")
    brief = replace(data, mask=torch.arange(6).expand(len(data), 6) < 1)
    detector = LocalPolynomial(pooling="max").fit(data)
    assert not detector.score(brief).score.any()


def test_swapped_waves_are_seen_by_errors_that_no_longer_go_together() -> None:
    data = sample("WAVES")
    detector = LocalPolynomial().fit(data.train)
    normal, odd = detector.score(data.normal).score, detector.score(data.anomalous).score
    spikes, noise, swapped = (ranking(normal, odd[kind::3].clone()) for kind in range(3))
    assert min(spikes, noise) > 0.95
    assert swapped > 0.9
    detector._moments = Moments.make(  # each column by itself: as smooth as ever
        detector._moments.mean,
        torch.diag(detector._moments.covariance.diagonal()),
        detector._moments.count,
    )
    normal, odd = detector.score(data.normal).score, detector.score(data.anomalous).score
    assert 0.3 < ranking(normal, odd[2::3].clone()) < 0.7


def test_trimmed_errors_keep_the_covariance_of_normal_ones() -> None:
    data = sample("WAVES")
    dirty = data.train.num.clone()
    dirty[::10, 20] += 6.0
    plain, trimmed = (
        LocalPolynomial(trim=trim).fit(replace(data.train, num=dirty)) for trim in (0.0, 0.05)
    )
    assert float(trimmed._moments.covariance.trace()) < float(plain._moments.covariance.trace()) / 3


def test_a_step_is_blamed_although_the_next_errs_more() -> None:
    data = sample("WAVES")
    detector = LocalPolynomial().fit(data.train)
    spiked = data.normal.num.clone()
    spiked[:, 20, 3] += 4.0
    odd = replace(data.normal, num=spiked)
    distances, _ = detector._distances(detector._prepare(odd))
    found = detector.score(odd, explain="full")
    assert found.step is not None
    assert found.feature is not None
    assert int(distances.mean(dim=0).argmax()) == 21
    assert (found.step.argmax(dim=1) == 20).float().mean() > 0.95
    assert (found.feature[:, 20].argmax(dim=1) == 3).float().mean() > 0.95


def test_records_are_refused() -> None:
    with pytest.raises(DataError, match="takes series"):
        LocalPolynomial().fit(np.zeros((10, 3)))
