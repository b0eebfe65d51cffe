"""Half-space trees: masses by hand, blocks that take turns, cuts that ignore the data."""

import math

import numpy as np
import pytest
import torch

from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.hst import HalfSpaceTrees, _halve


def walked(detector: HalfSpaceTrees, row: torch.Tensor) -> float:
    """Score of one scaled row, by a walk through the trees, one after the other."""
    depth, block = detector.config.depth, float(detector._reference[0].sum())
    total = 0.0
    for tree in range(detector.config.trees):
        place, level = 0, 0
        masses = detector._reference[tree]
        while level < depth and float(masses.sum()) > detector.config.size_limit * block:
            node = 2**level - 1 + place
            column = int(detector._cuts.column[tree, node])
            right = bool(row[column] > detector._cuts.threshold[tree, node])
            masses = masses[len(masses) // 2 :] if right else masses[: len(masses) // 2]
            place, level = 2 * place + int(right), level + 1
        total += float(masses.sum()) * 2**level / block
    return float(depth - math.log2(1 + total / detector.config.trees))


@pytest.mark.parametrize("limit", [0.0, 0.1])
def test_scores_equal_a_walk_to_the_first_light_node(limit: float) -> None:
    data = sample("CLUSTERS")
    detector = HalfSpaceTrees(trees=10, depth=7, size_limit=limit).fit(data.train)
    for batch in (data.normal[:20], data.anomalous[:20]):
        rows = detector._prepare(batch).num[:, 0]
        for row, score in zip(rows, detector.score(batch).score.tolist(), strict=True):
            assert score == pytest.approx(walked(detector, row), rel=1e-4)


def test_cuts_halve_what_is_left_of_the_work_space() -> None:
    torch.manual_seed(0)
    cuts = _halve(torch.tensor([0.0, -5.0]), torch.tensor([1.0, 5.0]), trees=20, depth=6)
    for tree in range(20):
        spans: dict[int, dict[int, list[float]]] = {0: {}}
        for node in range(63):
            box = spans[node]
            column, cut = int(cuts.column[tree, node]), float(cuts.threshold[tree, node])
            low, high = box.get(column, [-math.inf, math.inf])
            assert low < cut < high
            if math.isfinite(low) and math.isfinite(high):
                assert cut == pytest.approx((low + high) / 2, abs=1e-4)
            spans[2 * node + 1] = {**box, column: [low, cut]}
            spans[2 * node + 2] = {**box, column: [cut, high]}


def test_the_work_space_holds_the_range_of_the_data_with_room() -> None:
    torch.manual_seed(0)
    cuts = _halve(torch.zeros(1), torch.ones(1), trees=500, depth=1)
    middles = cuts.threshold[:, 0]
    assert 0 <= float(middles.min()) < 0.05 < 0.95 < float(middles.max()) <= 1


@pytest.mark.parametrize("sizes", [(250, 250), (100, 400), (120, 130, 250), (1, 499), (37,) * 15])
def test_blocks_take_turns_however_the_stream_is_cut(sizes: tuple[int, ...]) -> None:
    data = small("record", windows=1500)
    detector = HalfSpaceTrees(trees=5).fit(data[:700])
    assert detector._waiting == 200
    start = 700
    for size in sizes:
        detector.partial_fit(data[start : start + size])
        start += size
    rows = detector._prepare(data).num.flatten(1)
    full = start // 250 * 250
    assert torch.equal(detector._reference, detector._count(rows[full - 250 : full]))
    assert torch.equal(detector._latest, detector._count(rows[full:start]))
    assert detector._waiting == start - full


def test_credits_of_a_path_add_up_to_the_negative_log_density() -> None:
    data = sample("CLUSTERS")
    detector = HalfSpaceTrees(trees=1, depth=6, size_limit=0.1).fit(data.train)
    rows = detector._prepare(data.normal).num.flatten(1)
    density = detector._worth.gather(1, detector._cuts.leaves(rows))[0]
    credit = detector._cuts.credit(rows, detector._gains).sum(dim=1)
    filled = density > 0
    torch.testing.assert_close(credit[filled], -density[filled].log2(), atol=1e-4, rtol=1e-4)


def test_the_forest_follows_the_stream_after_one_block() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(1000, 4)), 2 + 0.5 * rng.normal(size=(250, 4))
    detector = HalfSpaceTrees().fit(old)
    assert ranking(detector.score(old).score, detector.score(new).score) > 0.7
    detector.partial_fit(new)
    assert ranking(detector.score(old).score, detector.score(new).score) < 0.3


def test_fewer_windows_than_a_block_are_a_block_of_their_own() -> None:
    data = sample("ONESIDED")
    detector = HalfSpaceTrees().fit(data.train[:100])
    assert float(detector._reference[0].sum()) == 100
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.8
