"""Online isolation forest: when nodes are cut and healed, what stays, depths and gains by hand."""

import math

import numpy as np
import pytest
import torch

from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.trees import levels
from detectors.online_iforest import OnlineIsolationForest


def assert_cut_where_justified(detector: OnlineIsolationForest) -> None:
    counts = levels(detector._bottom)
    finite = detector._cuts.threshold.isfinite()
    reached = torch.ones(len(finite), 1, dtype=torch.bool)
    for level in range(detector._cuts.depth):
        cut = finite[:, 2**level - 1 : 2 ** (level + 1) - 1]
        enough = counts[level] >= detector.config.leaf * 2**level
        assert torch.equal(cut, reached & enough)
        reached = cut.repeat_interleave(2, dim=1)


@pytest.mark.parametrize(("window", "leaf"), [(2048, 16), (500, 32), (64, 64), (30, 40)])
def test_nodes_are_cut_once_they_hold_enough_and_only_then(window: int, leaf: int) -> None:
    data = sample("CLUSTERS").train
    detector = OnlineIsolationForest(trees=10, window=window, leaf=leaf).fit(data[:900])
    assert_cut_where_justified(detector)
    for start in range(900, 2000, 220):
        detector.partial_fit(data[start : start + 220])
        assert_cut_where_justified(detector)
    assert len(detector._rows) == min(window, 2000)


def test_counts_are_those_of_the_windows_that_are_kept() -> None:
    data = sample("CLUSTERS").train
    detector = OnlineIsolationForest(window=300).fit(data[:500]).partial_fit(data[500:620])
    rows = detector._prepare(data[320:620]).num.flatten(1)
    assert torch.equal(detector._rows, rows)
    places = detector._cuts.leaves(rows)
    for tree in range(5):
        counts = torch.bincount(places[tree], minlength=detector._bottom.shape[1])
        assert torch.equal(counts.float(), detector._bottom[tree])


def test_scores_equal_a_walk_through_the_trees() -> None:
    data = sample("CLUSTERS")
    detector = OnlineIsolationForest(trees=8).fit(data.train)
    rows = detector._prepare(data.anomalous[:20]).num.flatten(1)
    counts = levels(detector._bottom)
    for row, score in zip(rows, detector.score(data.anomalous[:20]).score, strict=True):
        lengths = []
        for tree in range(8):
            level, place = 0, 0
            while level < detector._cuts.depth:
                node = 2**level - 1 + place
                threshold = float(detector._cuts.threshold[tree, node])
                if not math.isfinite(threshold):
                    break
                column = int(detector._cuts.column[tree, node])
                place = 2 * place + int(float(row[column]) > threshold)
                level += 1
            held = float(counts[level][tree, place])
            lengths.append(level + math.log2(max(held / 32, 1.0)))
        expected = 2 ** (-np.mean(lengths) / math.log2(2000 / 32))
        assert float(score) == pytest.approx(float(expected), rel=1e-4)


def test_justified_cuts_stay_and_others_heal() -> None:
    data = sample("CLUSTERS").train
    detector = OnlineIsolationForest(window=1000).fit(data[:1000])
    before = detector._cuts.threshold.clone()
    detector.partial_fit(data[1000:1010])
    after = detector._cuts.threshold
    both = before.isfinite() & after.isfinite()
    assert float((before == after)[both].float().mean()) == 1.0
    assert float(both.sum()) > 0.95 * float(before.isfinite().sum())
    far = data.num[:1, 0].repeat(1000, 1) + torch.linspace(0, 0.01, 1000).unsqueeze(1)
    detector.partial_fit(far)
    healed = before.isfinite() & ~detector._cuts.threshold.isfinite()
    assert float(healed.sum()) > 0.3 * float(before.isfinite().sum())
    assert_cut_where_justified(detector)


def test_evenly_spread_windows_score_below_one_half_and_far_ones_above() -> None:
    rng = np.random.default_rng(0)
    detector = OnlineIsolationForest().fit(rng.uniform(size=(2048, 4)))
    scores = detector.score(rng.uniform(size=(500, 4))).score
    assert 0.38 < float(scores.mean()) < 0.5
    assert float(detector.score([[9.0] * 4]).score) > max(0.55, float(scores.quantile(0.95)))
    assert 0 < float(scores.min()) < float(scores.max()) <= 1


def test_gains_add_up_to_the_depth_saved() -> None:
    data = sample("CLUSTERS")
    detector = OnlineIsolationForest(trees=1).fit(data.train)
    rows = detector._prepare(data.normal).num.flatten(1)
    saved = math.log2(2000 / 32) - detector._length.gather(1, detector._cuts.leaves(rows))[0]
    gains = detector._cuts.credit(rows, detector._gains).sum(dim=1)
    torch.testing.assert_close(gains, saved, atol=1e-4, rtol=1e-4)


def test_the_forest_follows_the_stream() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(600, 4)), 3 + rng.normal(size=(600, 4))
    detector = OnlineIsolationForest(window=600).fit(old)
    assert ranking(detector.score(old).score, detector.score(new).score) > 0.9
    for start in range(0, 600, 100):
        detector.partial_fit(new[start : start + 100])
    assert ranking(detector.score(old).score, detector.score(new).score) < 0.1


def test_too_few_windows_are_all_alike() -> None:
    data = small("record")
    detector = OnlineIsolationForest(leaf=64).fit(data)
    assert detector.score(data).score.tolist() == [1.0] * len(data)
