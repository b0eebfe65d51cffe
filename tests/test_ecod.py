"""Empirical tails: the algorithm by hand, padding, updates, and what the method cannot see."""

import math

import numpy as np
import pytest
import torch

from detectors.checks.sources import sample
from detectors.checks.subject import join, small
from detectors.ecod import EmpiricalTails


def test_scores_equal_the_algorithm_column_by_column() -> None:
    rng = np.random.default_rng(0)
    train = np.stack([rng.normal(size=80), rng.exponential(size=80), -rng.exponential(size=80)], 1)
    rows = rng.normal(size=(20, 3)) * 2
    detector = EmpiricalTails().fit(train)
    skewed_left = (train - train.mean(axis=0)) ** 3
    for row, score in zip(rows, detector.score(rows).score.tolist(), strict=True):
        left = [-math.log(((train[:, j] <= row[j]).sum() + 1) / 81) for j in range(3)]
        right = [-math.log(((train[:, j] >= row[j]).sum() + 1) / 81) for j in range(3)]
        auto = [(left if skewed_left[:, j].sum() < 0 else right)[j] for j in range(3)]
        assert score == pytest.approx(max(sum(left), sum(right), sum(auto)) / 3, rel=1e-5)


def test_a_short_window_is_compared_with_the_steps_it_has() -> None:
    train, data = small("series", windows=400), small("series", seed=2)
    short = data.lengths == 2
    detector = EmpiricalTails().fit(train)
    memory, rows = detector._memory, detector._prepare(data).num.flatten(1)
    real = train.lengths[:, None] >= torch.tensor([1] * 4 + [2] * 4)
    for row, score in zip(rows[short], detector.score(data).score[short], strict=True):
        sums = np.zeros(3)
        for j in range(8):
            column = memory[real[:, j], j]
            left = math.log(len(column) + 1) - math.log(int((column <= row[j]).sum()) + 1)
            right = math.log(len(column) + 1) - math.log(int((column >= row[j]).sum()) + 1)
            third = float(((column - column.mean()) ** 3).sum())
            sums += [left, right, left if third < 0 else right]
        assert float(score) == pytest.approx(sums.max() / 8, rel=1e-4)


def test_the_skewed_side_alone_is_enough() -> None:
    rng = np.random.default_rng(1)
    train = rng.exponential(size=(2000, 4)) * [1, -1, 1, -1]
    detector = EmpiricalTails().fit(train)
    usual = detector.score(train).score.quantile(0.999)
    assert float(detector.score([[9.0, -9.0, 9.0, -9.0]]).score) > float(usual)


def test_scores_are_bounded_by_the_rarest_rank() -> None:
    detector = EmpiricalTails().fit(np.random.default_rng(0).normal(size=(100, 3)))
    far = detector.score([[50.0, 50.0, 50.0], [1e9, 1e9, 1e9]]).score
    assert far.tolist() == pytest.approx([math.log(101)] * 2)


def test_updates_below_the_bound_add_up_to_the_whole() -> None:
    data, odd = small("series", windows=300), small("series", seed=2)
    parts = EmpiricalTails().fit(data[:200]).partial_fit(data[200:])
    whole = EmpiricalTails()
    whole.fit(data)
    whole._scaler = parts._scaler
    whole._memory = parts._memory
    whole._derive()
    assert torch.equal(parts._lengths, whole._lengths)
    assert torch.equal(parts.score(odd).score, whole.score(odd).score)


def test_the_memory_is_bounded_and_follows_the_stream() -> None:
    rng = np.random.default_rng(0)
    detector = EmpiricalTails(memory=100).fit(rng.normal(size=(60, 2)))
    before = float(detector.score([[6.0, 6.0]]).score)
    for _ in range(5):
        detector.partial_fit(6 + rng.normal(size=(100, 2)))
    assert len(detector._memory) == 100
    assert float(detector.score([[6.0, 6.0]]).score) < before / 2


def test_contamination_hardly_matters_and_combinations_not_at_all() -> None:
    data = sample("ONESIDED")
    mixed = join([data.train, data.anomalous[:40]])
    detector = EmpiricalTails().fit(mixed)
    normal, odd = detector.score(data.normal).score, detector.score(data.anomalous[40:]).score
    assert float(odd.median()) > float(normal.quantile(0.99))
    line = np.repeat(np.random.default_rng(0).normal(size=(500, 1)), 2, axis=1)
    blind = EmpiricalTails().fit(line)
    off, on = blind.score([[1.0, -1.0], [1.0, 1.0]]).score
    assert off < on
