"""Members are combined as the Cauchy combination test says, and p-values are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors import Budget, create
from detectors.batch import WindowBatch
from detectors.cauchy import COMPANY, HELD, LARGEST_P, CauchyCombination, combine
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.tail import TAIL, Tail
from schemas.errors import DataError

probability = st.floats(1e-9, LARGEST_P)


@given(st.lists(probability, min_size=1, max_size=6))
def test_the_combination_is_that_of_the_paper(p: list[float]) -> None:
    statistic = sum(math.tan((0.5 - x) * math.pi) for x in p) / len(p)
    expected = 0.5 - math.atan(statistic) / math.pi
    found = combine(-torch.tensor(p, dtype=torch.float64).log().unsqueeze(1))
    assert math.exp(-found.item()) == pytest.approx(expected, rel=1e-5)


@given(st.lists(probability, min_size=2, max_size=2), st.floats(0.01, 600))
def test_a_member_that_is_surer_never_lowers_the_score(p: list[float], more: float) -> None:
    before = -torch.tensor(p, dtype=torch.float64).log()
    after = before + torch.tensor([more, 0.0], dtype=torch.float64)
    low, high = combine(torch.stack([before, after], dim=1)).tolist()
    assert high >= low - 1e-9


def test_it_goes_on_without_a_step_where_the_tangent_gives_way_to_its_limit() -> None:
    surprise = torch.linspace(10, 40, 3001, dtype=torch.float64).repeat(2, 1)
    surprise[1] = 0.0
    steps = combine(surprise).diff()
    assert steps.min() > 0.009
    assert steps.max() < 0.011


@pytest.mark.parametrize("members", [2, 5])
def test_members_that_agree_are_as_sure_as_one(members: int) -> None:
    one = torch.tensor([[0.5, 3.0, 12.0, 80.0, 500.0]], dtype=torch.float64)
    assert torch.allclose(combine(one.repeat(members, 1)), combine(one))
    assert torch.allclose(combine(one), one, rtol=1e-6)


def test_the_false_alarm_rate_is_the_one_that_was_asked_for() -> None:
    """Also under correlation, which is what the test is for."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(1, 200_000))
    z = torch.from_numpy(0.8 * common + 0.6 * rng.normal(size=(4, 200_000)))
    p = 0.5 * torch.erfc(z / math.sqrt(2))
    combined = torch.exp(-combine(-p.log()))
    for level in (0.01, 0.001):
        assert float((combined < level).double().mean()) == pytest.approx(level, rel=0.25)


@pytest.mark.parametrize("shape", ["normal", "lognormal", "exponential"])
def test_p_values_of_normal_scores_are_uniform(shape: str) -> None:
    """Or larger, far out in tails that are lighter than an exponential."""
    draw = getattr(np.random.default_rng(1), shape)
    tail = Tail.fit(torch.from_numpy(draw(size=4000)))
    p = torch.exp(-tail.surprise(torch.from_numpy(draw(size=100_000))))
    for level in (0.5, TAIL, 0.01, 0.002):
        assert 0.4 * level <= float((p <= level).double().mean()) <= 1.4 * level


@pytest.mark.parametrize("ulps", [-4, 4])
def test_a_score_that_is_rounded_otherwise_does_not_pass_those_that_it_ties_with(ulps: int) -> None:
    known = (np.random.default_rng(0).integers(-50, 20, 2000) / 7).astype(np.float32)
    tail = Tail.fit(torch.from_numpy(known))
    given_, other = (torch.from_numpy(x) for x in (known, known + ulps * np.spacing(known)))
    torch.testing.assert_close(tail.surprise(other), tail.surprise(given_), rtol=1e-4, atol=1e-4)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_surprise_is_finite_and_rises_with_the_score(scores: list[float]) -> None:
    tail = Tail.fit(torch.tensor(scores))
    grid = torch.linspace(-2e6, 2e6, 999)
    surprise = tail.surprise(grid)
    assert surprise.isfinite().all()
    assert (surprise.diff() >= -1e-9).all()
    assert (surprise >= 0).all()


def test_it_is_hardly_worse_than_its_best_member_and_better_than_its_worst() -> None:
    data = sample("SUBSPACE")
    areas = {}
    for name in ("cauchy", "knn", "pca", "iforest"):
        detector = create(name).fit(data.train)
        normal, odd = (detector.score(x).score for x in (data.normal, data.anomalous))
        areas[name] = ranking(normal, odd)
    combined = areas.pop("cauchy")
    assert combined > min(areas.values()) + 0.02
    assert combined > max(areas.values()) - 0.02


@pytest.mark.parametrize(
    ("kind", "windows"),
    [("record", small("record")), ("series", small("series")), ("events", small("events"))],
)
def test_who_is_asked_depends_on_what_windows_are(kind: str, windows: WindowBatch) -> None:
    detector = CauchyCombination().fit(windows, budget=Budget(steps=1))
    assert tuple(detector._members) == COMPANY[kind]


def test_an_unknown_member_is_named() -> None:
    with pytest.raises(DataError, match=r"cauchy.members: no detector 'knm'.*knn"):
        create("cauchy", members=["knm"]).fit(np.zeros((10, 3)))
    with pytest.raises(DataError, match="no detector 'cauchy'"):
        create("cauchy", members=["cauchy"]).fit(np.zeros((10, 3)))


@pytest.mark.parametrize("windows", [1, 2, 20])
def test_a_small_update_does_not_make_normal_windows_incredible(windows: int) -> None:
    data = sample("SUBSPACE")
    detector = create("cauchy").fit(data.train)
    detector.partial_fit(data.train[:windows])
    assert float(detector.score(data.normal).score.max()) < 20


@pytest.mark.parametrize("windows", [3, 10, 40, 150])
def test_nor_does_a_fit_on_few_windows(windows: int) -> None:
    data = sample("SUBSPACE")
    scores = create("cauchy").fit(data.train[:windows]).score(data.normal).score
    assert float(scores.median()) < 20


def test_held_out_windows_are_kept_but_not_without_bound() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 3))
    detector = CauchyCombination(members=("pca",)).fit(rows)
    for count, expected in ((200, 50), (200, 70), (15 * HELD, HELD)):
        detector.partial_fit(np.resize(rows, (count, 3)))
        assert len(detector._held) == expected


def test_steps_of_a_budget_are_shared_among_those_that_are_trained() -> None:
    detector = CauchyCombination(members=("ae", "vae", "pca")).fit(np.zeros((2, 3)))
    assert detector._share_of(Budget(seconds=6.0, steps=100)) == Budget(seconds=2.0, steps=50)
    assert detector._share_of(Budget()) == Budget()


def test_equal_scores_have_a_tail_as_wide_as_they_are_large() -> None:
    found = Tail.fit(torch.full((5,), 10.0)).surprise(torch.tensor([10.0, 11.0, 20.0, 1000.0]))
    assert found[0] < found[1] < found[2] < 20
    assert found[3] > 100
    assert float(Tail.fit(torch.zeros(3)).surprise(torch.tensor([0.1]))) < 5
