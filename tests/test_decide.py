"""Calibration: the false alarms that were asked for, and not more."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from agents.decide import BLOCK, Decider
from agents.records import Floats
from agents.tail import Tail

DAY = 86_400 * 10**9


@pytest.mark.parametrize("law", ["normal", "lognormal", "student"])
def test_tail_p_values_are_honest_beyond_the_calibration_set(law: str) -> None:
    draw: dict[str, Callable[[np.random.Generator, int], Floats]] = {
        "normal": lambda rng, n: rng.normal(size=n),
        "lognormal": lambda rng, n: rng.lognormal(size=n),
        "student": lambda rng, n: np.abs(rng.standard_t(4, size=n)),
    }
    levels = np.array([0.05, 0.01, 1e-3, 1e-4])  # the last two are beyond counting
    ratios = []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        p = Tail.fit(draw[law](rng, 8000)).p_values(draw[law](rng, 100_000))
        ratios.append([(p <= level).mean() / level for level in levels])
    typical = np.median(ratios, axis=0)
    assert (typical > 0.6).all(), typical
    assert (typical < 1.6).all(), typical


def test_p_values_fall_with_the_score_and_stay_positive() -> None:
    tail = Tail.fit(np.random.default_rng(0).normal(size=2000))
    p = tail.p_values(np.linspace(-5, 50, 500))
    assert (np.diff(p) <= 1e-12).all()
    assert p.min() > 0


@pytest.mark.parametrize("ulps", [-4, 4])
def test_a_score_that_is_rounded_otherwise_does_not_pass_those_that_it_ties_with(ulps: int) -> None:
    known = (np.random.default_rng(0).integers(-50, 20, 2000) / 7).astype(np.float32)
    scores, other = known.astype(float), (known + ulps * np.spacing(known)).astype(float)
    tail = Tail.fit(scores)
    assert tail.p_values(other) == pytest.approx(tail.p_values(scores), rel=1e-4)


def test_equal_scores_still_tell_a_larger_one_apart() -> None:
    tail = Tail.fit(np.zeros(500))
    p = tail.p_values(np.array([0.0, 0.5, 5.0]))
    assert p[0] == 1.0
    assert p[2] < p[1] < 0.01


def test_the_share_of_anomalies_stays_at_the_threshold_for_long() -> None:
    rng = np.random.default_rng(1)
    n = 60 * BLOCK
    calibration = {"full": rng.gamma(2.0, size=4000), "partial": np.zeros(0)}
    decider = Decider(calibration, windows_per_day=10_000, alerts_per_day=200)
    times = np.arange(n) * (DAY // 10_000)
    verdicts = decider(rng.gamma(2.0, size=n), times, np.zeros(n, dtype=bool))
    late = verdicts.is_anomaly[n // 2 :].mean()
    assert late == pytest.approx(verdicts.threshold[-1], rel=0.35)


@pytest.mark.parametrize("share", [0.003, 0.03])
def test_anomalies_that_keep_coming_stay_anomalies(share: float) -> None:
    rng = np.random.default_rng(3)
    n = 60 * BLOCK
    known = rng.lognormal(0, 0.6, 4000)
    scores, anomalous = rng.lognormal(0, 0.6, n), rng.random(n) < share
    scores[anomalous] = np.quantile(known, 0.9995) * rng.uniform(1.0, 1.6, anomalous.sum())
    decider = Decider({"full": known, "partial": np.zeros(0)}, 1e4, 40.0)
    p = decider(scores, np.arange(n) * 10**9, np.zeros(n, dtype=bool)).p_value
    assert (p[anomalous][-300:] <= 0.002).mean() > 0.95
    assert (p[~anomalous] <= 0.002).mean() < 2 * 0.002


def test_a_model_tail_that_is_too_heavy_does_not_hide_the_streams_own_anomalies() -> None:
    rng = np.random.default_rng(4)
    n = 12 * BLOCK
    known = rng.normal(10.0, 1.0, 4000)
    known[rng.random(4000) < 0.1] += 2.0  # what the stream does less often
    scores, anomalous = rng.normal(10.0, 1.0, n), rng.random(n) < 0.005
    scores[anomalous] = rng.uniform(20.0, 60.0, anomalous.sum())
    decider = Decider({"full": known, "partial": np.zeros(0)}, 1e4, 40.0)
    p = decider(scores, np.arange(n) * 10**9, np.zeros(n, dtype=bool)).p_value
    assert p[anomalous].max() < 1e-4


@pytest.mark.parametrize("drift", ["a step to 1.5", "slowly to 2", "down to 0.5"])
def test_false_alarms_stay_few_where_scores_move(drift: str) -> None:
    n = 40 * BLOCK
    at = np.arange(n) / n
    scale = {"a step to 1.5": np.full(n, 1.5), "slowly to 2": 1 + at, "down to 0.5": 1 - at / 2}[
        drift
    ]
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        calibration = {"full": rng.lognormal(0, 0.6, 4000), "partial": np.zeros(0)}
        scores = scale * rng.lognormal(0, 0.6, n)
        decider = Decider(calibration, 1e4, 40.0)
        p = decider(scores, np.arange(n) * 10**9, np.zeros(n, dtype=bool)).p_value
        found.append((p[n // 2 :] <= 0.002).mean())
    assert np.mean(found) < 2.5 * 0.002


def test_verdicts_do_not_depend_on_batches() -> None:
    rng = np.random.default_rng(2)
    n = 5 * BLOCK
    scores, times = rng.normal(size=n), np.arange(n) * 10**9
    partial = rng.random(n) < 0.1
    calibration = {"full": rng.normal(size=2000), "partial": rng.normal(size=500)}
    whole = Decider(calibration, 1e4, 10.0)(scores, times, partial)
    pieces = Decider(calibration, 1e4, 10.0)
    cuts = [0, 1, 700, 701, 2500, n]
    p = [pieces(scores[a:b], times[a:b], partial[a:b]).p_value for a, b in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(p), whole.p_value)
