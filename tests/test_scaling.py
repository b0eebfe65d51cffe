"""Numbers are scaled so that what is normal is of size one and what is far stays far."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors.batch import as_batch
from detectors.scaling import QuartileScaler, RobustScaler

N = 20_000


def fitted(values: NDArray[np.float64]) -> RobustScaler:
    return RobustScaler.fit(as_batch(values[:, None].astype(np.float32)))


def scaled(scaler: RobustScaler, *values: float) -> list[float]:
    found: list[float] = scaler(torch.tensor(values)[:, None])[:, 0].tolist()
    return found


@given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e3))
def test_a_normal_distribution_has_its_own_mean_and_deviation(mean: float, spread: float) -> None:
    values = np.random.default_rng(0).normal(mean, spread, N)
    low, middle, high = scaled(fitted(values), mean - spread, mean, mean + spread)
    assert (low, middle, high) == pytest.approx((-1, 0, 1), abs=0.05)


def test_heavy_tails_that_are_normal_do_not_look_far_away() -> None:
    values = np.random.default_rng(0).lognormal(0.0, 2.0, N)
    numbers = np.abs(scaled(fitted(values), *values))
    assert np.quantile(numbers, 0.99) < 7
    assert numbers.mean() < 1


@pytest.mark.parametrize("outlier", [1e6, 1e30, -1e30])
def test_few_outliers_hardly_stretch_the_scale(outlier: float) -> None:
    values = np.random.default_rng(0).normal(size=N)
    values[: N // 2000] = outlier
    assert 1.0 < fitted(values).scale.item() < 1.3


def test_rare_values_that_are_normal_widen_the_scale() -> None:
    values = np.random.default_rng(0).normal(size=N)
    values[::2000] = 30.0
    assert fitted(values).scale.item() > 1.15


def test_a_huge_number_is_larger_than_a_large_one() -> None:
    scaler = fitted(np.random.default_rng(0).normal(size=N))
    ten, fifty, most, infinite = scaled(scaler, 10.0, 50.0, 1e30, float("-inf"))
    assert 1 < ten < fifty < most == RobustScaler.limit
    assert infinite == -RobustScaler.limit
    assert scaled(scaler, float("nan")) == [0.0]


def test_a_rare_value_and_a_new_one_stand_out_where_others_never_vary() -> None:
    constant = np.zeros(N)
    assert scaled(fitted(constant), 0.0, 3.0) == [0.0, 3.0]
    constant[0] = 1.0
    usual, rare = scaled(fitted(constant), 0.0, 1.0)
    assert usual == 0.0
    assert rare > 10


@given(st.integers(0, 10**6))
def test_a_scaled_number_returns_to_its_units(seed: int) -> None:
    values = np.random.default_rng(seed).normal(7.0, 3.0, 200)
    scaler = fitted(values)
    back = scaler.inverse(scaler(torch.from_numpy(values[:, None]).float()))
    assert back[:, 0].numpy() == pytest.approx(values, rel=1e-4, abs=1e-4)


def test_quartiles_alone_do_not_know_of_tails() -> None:
    values = np.random.default_rng(0).lognormal(0.0, 2.0, N)
    batch = as_batch(values[:, None].astype(np.float32))
    narrow, wide = QuartileScaler.fit(batch), RobustScaler.fit(batch)
    first, third = np.quantile(values, [0.25, 0.75])
    assert narrow.scale.item() == pytest.approx((third - first) / 1.349, rel=1e-4)
    assert narrow.scale < wide.scale
    assert scaled(narrow, 1e30) == [10.0]
