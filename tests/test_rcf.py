"""Random cut forest: the closed form against simulated insertions, samples, boxes, blame."""

import numpy as np
import pytest
import torch
from torch import Tensor

from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.rcf import RandomCutForest, _cut, _Forest, _grow


def forest(samples: Tensor, seed: int = 0) -> _Forest:
    return _grow(samples, torch.Generator().manual_seed(seed))


def inserted(tree: _Forest, x: Tensor, rng: np.random.Generator) -> float:
    """Displacement by ``x`` after one random insertion into the first tree, step by step."""
    node, best = 0, 0.0
    while True:
        low, high = tree.box[node].chunk(2)
        lower, upper = torch.minimum(low, x), torch.maximum(high, x)
        draw = rng.uniform() * float((upper - lower).sum())
        for column in range(len(x)):
            width = float(upper[column] - lower[column])
            if draw <= width:
                break
            draw -= width
        cut = float(lower[column]) + draw
        if not float(low[column]) <= cut <= float(high[column]):
            return max(best, float(tree.size[node]))
        left = int(tree.left[node])
        if left == node:
            return best
        right = bool(x[int(tree.column[node])] > tree.threshold[node])
        child, sibling = left + int(right), left + 1 - int(right)
        best = max(best, float(tree.size[sibling] / (tree.size[child] + 1)))
        node = child


@pytest.mark.parametrize("place", [(0.1, 0.2), (1.5, -0.5), (4.0, 4.0), (0.0, 3.0)])
def test_the_closed_form_is_the_mean_of_random_insertions(place: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    tree = forest(torch.from_numpy(rng.normal(size=(1, 12, 2))).float())
    x = torch.tensor(place)
    expected = np.mean([inserted(tree, x, rng) for _ in range(2000)])
    found, _ = tree.displacement(x.unsqueeze(0), blamed=False)
    assert float(found) == pytest.approx(float(expected), rel=0.05)


def test_nodes_know_their_windows_and_leaves_hold_equal_ones() -> None:
    rng = np.random.default_rng(1)
    samples = torch.from_numpy(rng.integers(0, 4, size=(3, 40, 2))).float()
    trees = forest(samples)
    for root in range(3):
        held = {root: samples[root]}
        while held:
            node, rows = held.popitem()
            assert int(trees.size[node]) == len(rows) > 0
            assert torch.equal(trees.box[node], torch.cat([rows.amin(dim=0), rows.amax(dim=0)]))
            left = int(trees.left[node])
            if left == node:
                assert (rows == rows[0]).all()
                continue
            right = rows[:, int(trees.column[node])] > trees.threshold[node]
            held[left], held[left + 1] = rows[~right], rows[right]


def test_columns_are_cut_in_proportion_to_their_ranges() -> None:
    low, high = torch.zeros(20_000, 3), torch.tensor([1.0, 0.0, 3.0]).expand(20_000, 3)
    column, place = _cut(low, high, torch.Generator().manual_seed(0))
    shares = torch.bincount(column, minlength=3) / 20_000
    assert shares.tolist() == pytest.approx([0.25, 0.0, 0.75], abs=0.015)
    assert float(place[column == 2].mean()) == pytest.approx(1.5, abs=0.05)
    assert (place < high.gather(1, column.unsqueeze(1)).squeeze(1)).all()


def test_a_window_far_out_displaces_the_whole_sample() -> None:
    data = sample("CLUSTERS")
    detector = RandomCutForest(sample=64).fit(data.train)
    far, usual = detector.score([[1e6] * 8, [0.0] * 8]).score
    assert 40 < float(far) <= 64
    assert float(usual) < float(far) / 3


def test_an_equal_of_many_is_no_anomaly_and_a_clump_hides_its_members() -> None:
    rng = np.random.default_rng(0)
    train = np.vstack([rng.normal(size=(190, 2)), np.tile([[9.0, 9.0]], (66, 1))])
    detector = RandomCutForest(sample=256).fit(train)
    alone = RandomCutForest(sample=256).fit(train[:190])
    clumped, single = (float(found.score([[9.0, 9.0]]).score) for found in (detector, alone))
    assert clumped < single / 10


def test_blame_adds_up_to_the_score() -> None:
    data = sample("SUBSPACE")
    detector = RandomCutForest().fit(data.train)
    rows = detector._prepare(data.anomalous).num.flatten(1)
    score, blame = detector._forest.displacement(rows, blamed=True)
    torch.testing.assert_close(blame.sum(dim=1), score, rtol=1e-3, atol=1e-3)
    assert (blame >= 0).all()


def test_samples_stay_uniform_over_the_stream_and_differ_between_trees() -> None:
    values = np.arange(1000.0)[:, None]
    detector = RandomCutForest(trees=100, sample=20).fit(values[:100])
    detector._scaler.scale.fill_(1000.0)  # nothing clipped
    detector._scaler.center.zero_()
    detector._samples = detector._samples * 0
    for start in range(100, 1000, 100):
        detector.partial_fit(values[start : start + 100])
    assert detector._samples.shape == (100, 20, 1)
    held = (detector._samples * 10 + 1e-3).long().flatten()
    shares = torch.bincount(held, minlength=10) / len(held)
    assert 0.07 < float(shares.min()) < float(shares.max()) < 0.13
    assert len({tuple(tree.flatten().tolist()) for tree in detector._samples}) == 100


def test_small_samples_fill_up_first() -> None:
    data = small("record")
    detector = RandomCutForest(trees=3, sample=40).fit(data[:10])
    detector.partial_fit(data[10:25])
    assert detector._samples.shape == (3, 25, 5)
    rows = detector._prepare(data[:25]).num.flatten(1)
    for tree in detector._samples:
        torch.testing.assert_close(tree.sort(dim=0).values, rows.sort(dim=0).values)


def test_updates_learn_what_becomes_usual() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(500, 4)), 4 + rng.normal(size=(500, 4))
    detector = RandomCutForest().fit(old)
    before = detector.score(new).score.mean()
    assert ranking(detector.score(old).score, detector.score(new).score) > 0.95
    detector.partial_fit(new)
    assert float(detector.score(new).score.mean()) < float(before) / 3
