"""VUS-PR against its definition, written out, and against cases that can be done by hand."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from agents.vus import vus_pr

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def volume(
    labels: list[int], scores: list[float], buffer: int, keys: str | None = None, **kwargs: int
) -> float:
    """The measure of short series; ``keys`` has a letter for each window."""
    series = np.array([ord(key) for key in keys or "a" * len(labels)])
    return vus_pr(np.array(labels) == 1, np.array(scores, dtype=float), series, buffer, **kwargs)


def ranges_of(labels: Bools, series: Ints) -> list[tuple[int, int]]:
    marks = [(bool(mark), int(of)) for mark, of in zip(labels, series, strict=True)]
    found = []
    for (mark, _), group in groupby(range(len(marks)), key=lambda at: marks[at]):
        at = list(group)
        if mark:
            found.append((at[0], at[-1]))
    return found


def area_by_definition(
    labels: Bools, scores: Floats, series: Ints, width: int, cuts: list[float]
) -> float:
    """One slice of the surface, window by window and range by range."""
    ranges, half, n = ranges_of(labels, series), width // 2, len(labels)
    weight = labels.astype(float)
    wide: list[set[int]] = []
    for first, last in ranges:
        reach = set(range(first, last + 1))
        for at in range(n):
            distance = max(first - at, at - last)
            if 0 < distance <= half and series[at] == series[first]:
                weight[at] = min(1.0, weight[at] + math.sqrt(1 - distance / width))
                reach.add(at)
        if wide and wide[-1] & reach:
            wide[-1] |= reach
        else:
            wide.append(reach)
    area, before = 0.0, 0.0
    for cut in cuts:
        flagged = scores >= cut
        hit = float(weight[flagged].sum())
        positives = labels.sum() + float(weight[flagged & ~labels].sum()) / 2
        existence = sum(any(flagged[list(reach)]) for reach in wide) / len(wide)
        recall = min(hit / positives, 1.0) * existence
        area += (recall - before) * hit / flagged.sum()
        before = recall
    return area


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_published_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 80))
    labels = rng.random(n) < rng.choice([0.05, 0.3, 0.7])
    labels[rng.integers(n)] = True
    scores = np.round(rng.normal(size=n) + labels, 1)  # with ties
    series = np.sort(rng.integers(rng.integers(1, 6), size=n))
    buffer = int(rng.integers(0, 12))
    cuts = np.unique(scores)[::-1].tolist()
    every = [area_by_definition(labels, scores, series, w, cuts) for w in range(buffer + 1)]
    assert vus_pr(labels, scores, series, buffer) == pytest.approx(np.mean(every), abs=1e-12)
    cuts = np.sort(scores)[::-1][np.linspace(0, n - 1, 7).astype(int)].tolist()
    few = [area_by_definition(labels, scores, series, w, cuts) for w in range(buffer + 1)]
    sampled = vus_pr(labels, scores, series, buffer, thresholds=7)
    assert sampled == pytest.approx(np.mean(few), abs=1e-12)


def test_one_range_without_a_border_is_average_precision() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(200, dtype=bool)
    labels[90:110] = True
    scores = np.round(rng.normal(size=200) + labels, 1)
    found = vus_pr(labels, scores, np.zeros(200, dtype=np.int64), 0)
    assert found == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("buffer", [0, 1, 8, 50])
def test_a_perfect_ranking_is_1(buffer: int) -> None:
    labels = np.zeros(30_000, dtype=bool)
    labels[[10, 11, 12, 500, 20_000, 20_001]] = True
    series = np.arange(30_000) // 1000
    rng = np.random.default_rng(0)
    scores = rng.random(30_000)
    ranked = np.where(labels, 2.0, scores)
    assert vus_pr(labels, ranked, series, buffer) == pytest.approx(1.0)
    assert vus_pr(labels, scores, series, buffer) < 0.1


def test_a_constant_score_is_the_weight_of_all_windows() -> None:
    # at distance 1 a window weighs sqrt(1 - 1 / 2) with a border of 2, the border of 3 likewise
    border = 2 * math.sqrt(1 / 2), 2 * math.sqrt(2 / 3)
    expected = (2 + 2 + (2 + border[0]) + (2 + border[1])) / 4 / 10
    labels = [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert volume(labels, [3.0] * 10, 3) == pytest.approx(expected)


def test_a_near_miss_counts_and_a_far_one_does_not() -> None:
    labels = [0] * 10 + [1] + [0] * 10
    near, far = np.zeros(21), np.zeros(21)
    near[11], far[20] = 1, 1
    strict = volume(labels, near.tolist(), 0)
    assert strict == pytest.approx(1 / 21)
    assert volume(labels, far.tolist(), 0) == strict
    forgiving = volume(labels, near.tolist(), 8)
    assert forgiving > 0.4
    assert forgiving > volume(labels, far.tolist(), 8) + 0.3


def test_borders_end_with_their_key() -> None:
    labels, scores = [0, 0, 1, 0, 0], [0.0, 0.0, 0.0, 1.0, 0.0]
    assert volume(labels, scores, 4, keys="aaabb") < volume(labels, scores, 4, keys="aaaaa")
    # the same windows of a key count the same wherever other keys stand
    assert volume([0, 1, 0, 0, 0, 0], [5, 4, 1, 1, 2, 1], 4, keys="aabbbb") == pytest.approx(
        volume([0, 0, 0, 0, 0, 1], [1, 1, 2, 1, 5, 4], 4, keys="aaaabb")
    )


def test_finding_every_range_counts_more_than_finding_much_of_one() -> None:
    labels = [1, 1, 0, 0, 0, 0, 1, 1, 0, 0]
    both = volume(labels, [9, 0, 0, 0, 0, 0, 9, 0, 0, 0], 0)
    one = volume(labels, [9, 9, 0, 0, 0, 0, 0, 0, 0, 0], 0)
    assert both == pytest.approx(0.5 + 0.5 * 0.4)
    assert one == pytest.approx(0.5 * 0.5 + 0.75 * 0.4)


@pytest.mark.parametrize("thresholds", [None, 20])
def test_only_the_order_of_scores_matters(thresholds: int | None) -> None:
    rng = np.random.default_rng(3)
    labels, series = rng.random(300) < 0.1, np.arange(300) // 60
    scores = rng.normal(size=300) + labels
    found = vus_pr(labels, scores, series, 6, thresholds)
    assert vus_pr(labels, np.exp(3 * scores) - 7, series, 6, thresholds) == pytest.approx(found)
    assert vus_pr(labels, -scores, series, 6, thresholds) < found


def test_250_thresholds_approach_all_of_them() -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat(rng.random(2000) < 0.1, 10)
    series, scores = np.zeros(20_000, dtype=np.int64), rng.normal(size=20_000) + labels
    every = vus_pr(labels, scores, series, 10)
    assert vus_pr(labels, scores, series, 10, thresholds=250) == pytest.approx(every, abs=0.01)
