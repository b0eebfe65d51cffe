"""The classical detectors against their formulas, computed the slow and obvious way."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from detectors import Detector, WindowBatch, as_batch, events
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import join, small
from detectors.count_vector import CountVector
from detectors.iforest import IsolationForest, _cuts
from detectors.knn import NearestNeighbours, _smallest
from detectors.pca import PrincipalComponents
from schemas.errors import DataError


def scaled(detector: Detector, data: WindowBatch) -> Tensor:
    """Flattened windows as the detector sees them, in float64."""
    return detector._prepare(data).num.flatten(1).double()


# -- principal components -------------------------------------------------------------------


def test_the_score_of_a_short_window_is_that_of_the_marginal_gaussian() -> None:
    train, data = small("series", windows=400), small("series", seed=2)
    detector = PrincipalComponents().fit(train)
    covariance = torch.linalg.inv(detector._whitener.double() @ detector._whitener.double().T)
    rows, mean = scaled(detector, data), detector._mean.double()
    scores = detector.score(data).score
    for row, score, steps in zip(rows, scores, data.lengths.tolist(), strict=True):
        n = 4 * steps
        gap = (row - mean)[:n]
        expected = gap @ torch.linalg.solve(covariance[:n, :n], gap) / n
        assert float(score) == pytest.approx(float(expected), rel=1e-4)


def test_normal_windows_of_every_length_score_about_one() -> None:
    detector = PrincipalComponents().fit(small("series", windows=4000))
    data = small("series", windows=4000)
    scores = detector.score(data).score
    for steps in range(1, 7):
        assert float(scores[data.lengths == steps].mean()) == pytest.approx(1.0, abs=0.2)


def test_expected_values_are_predictions_from_all_other_entries() -> None:
    data = sample("SUBSPACE")
    detector = PrincipalComponents().fit(data.train)
    corrupted = data.normal.num.clone()
    corrupted[:, 0, 7] += 5 * corrupted[:, 0, 7].std()
    expected = detector.score(replace(data.normal, num=corrupted), explain="full").expected
    assert expected is not None
    error = (expected - data.normal.num)[:, 0, 7].std() / data.normal.num[:, 0, 7].std()
    assert float(error) < 0.1


def test_reconstruction_error_alone_is_blind_inside_the_subspace() -> None:
    rng = np.random.default_rng(0)
    line = rng.normal(size=(500, 1)) * np.array([[1.0, 1.0, 1.0]])
    train = line + 0.1 * rng.normal(size=(500, 3))
    far_on_the_line, off_the_line = np.full((1, 3), 5.0), np.array([[1.0, -1.0, 0.0]])
    for whiten, seen in ((True, True), (False, False)):
        detector = PrincipalComponents(whiten=whiten, components=1).fit(train)
        usual = float(detector.score(train).score.quantile(0.99))
        assert (float(detector.score(far_on_the_line).score) > usual) == seen
        assert float(detector.score(off_the_line).score) > 10 * usual


def test_updates_of_principal_components_add_up_to_a_fit_on_everything() -> None:
    data = small("series", windows=400)
    whole = PrincipalComponents().fit(data)
    parts = PrincipalComponents().fit(data)
    for moment in (parts._count, parts._sum, parts._products):  # same scaler, nothing learned
        moment.zero_()
    parts.partial_fit(data[:150]).partial_fit(data[150:])
    torch.testing.assert_close(parts.score(data).score, whole.score(data).score)


def test_a_short_horizon_forgets() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2000, 4)), 4.0 + rng.normal(size=(2000, 4))
    scores = []
    for horizon in (50, 100_000):
        detector = PrincipalComponents(horizon=horizon).fit(old).partial_fit(new)
        scores.append(float(detector.score(new).score.mean() / detector.score(old).score.mean()))
    assert scores[0] < 0.5 < 0.9 < scores[1]


# -- nearest neighbours ---------------------------------------------------------------------


@pytest.mark.parametrize(("neighbours", "windows"), [(1, 300), (5, 300), (5, 3), (70, 300)])
def test_neighbours_equal_brute_force(neighbours: int, windows: int) -> None:
    train, data = small("series", windows=windows), small("series", seed=2)
    train = train[train.lengths == train.steps]
    detector = NearestNeighbours(neighbours=neighbours).fit(train)
    memory, rows = scaled(detector, train), scaled(detector, data)
    scores = detector.score(data).score
    for row, score, steps in zip(rows, scores, data.lengths.tolist(), strict=True):
        n = 4 * steps
        distances = (memory[:, :n] - row[:n]).square().mean(dim=1).sqrt().sort().values
        assert float(score) == pytest.approx(float(distances[:neighbours].mean()), abs=1e-5)


def test_a_window_is_compared_with_windows_at_least_as_long() -> None:
    long = small("series")[:20]
    short = replace(long, mask=torch.arange(6).expand(20, 6) < 2)
    train = join([long, short])
    detector, alone = NearestNeighbours().fit(train), NearestNeighbours().fit(long)
    alone._scaler = detector._scaler
    alone._memory = detector._memory[detector._lengths == 6]
    alone._derive()
    torch.testing.assert_close(detector.score(long).score, alone.score(long).score)


@pytest.mark.parametrize(("rows", "columns", "k"), [(5, 64, 3), (7, 640, 5), (3, 6400, 64)])
def test_the_smallest_are_found(rows: int, columns: int, k: int) -> None:
    distances = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
    found = distances.gather(1, _smallest(distances, k)).sort(dim=1).values
    assert torch.equal(found, distances.sort(dim=1).values[:, :k])


def test_trimming_forgets_contamination() -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(500, 4))
    odd = rng.choice([-1, 1], size=(10, 4)) * rng.uniform(5, 9, size=(10, 4))
    plain = NearestNeighbours(neighbours=1).fit(np.vstack([train, odd]))
    trimmed = NearestNeighbours(neighbours=1, trim=0.02).fit(np.vstack([train, odd]))
    assert trimmed.report.trimmed == 10
    assert float(plain.score(odd).score.max()) == 0 < float(trimmed.score(odd).score.min())


@pytest.mark.parametrize("replace_with", ["reservoir", "oldest"])
def test_the_memory_stays_in_bounds_and_takes_in_new_windows(replace_with: str) -> None:
    rng = np.random.default_rng(0)
    detector = NearestNeighbours(memory=100, replace=replace_with).fit(rng.normal(size=(60, 2)))
    for block in range(1, 11):
        detector.partial_fit(block + 0.01 * rng.normal(size=(100, 2)))
    assert len(detector._memory) == 100
    blocks = set(detector._scaler.inverse(detector._memory)[:, 0].round().tolist())
    assert blocks == {10.0} if replace_with == "oldest" else len(blocks) > 6


# -- isolation forest -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 10, 256])
def test_the_usual_number_of_cuts(n: int) -> None:
    harmonic = sum(1 / i for i in range(1, n))
    expected = 2 * harmonic - 2 * (n - 1) / n
    assert float(_cuts(torch.tensor([float(n)]))) == pytest.approx(expected, rel=1e-5)


def test_the_tables_lead_where_a_walk_through_the_trees_does() -> None:
    data = sample("CLUSTERS")
    detector = IsolationForest(trees=20).fit(data.train)
    rows = scaled(detector, data.anomalous[:30])
    inner = detector._column.shape[1]
    for row, score in zip(rows, detector.score(data.anomalous[:30]).score, strict=True):
        depths = []
        for tree in range(20):
            node = 0
            while node < inner:
                right = row[detector._column[tree, node]] > detector._threshold[tree, node]
                node = 2 * node + 1 + int(right)
            depths.append(float(detector._length[tree, node - inner]))
        assert float(score) == pytest.approx(2 ** (-np.mean(depths) / detector._usual), rel=1e-5)


def test_isolation_scores_lie_between_zero_and_one() -> None:
    data = sample("CLUSTERS")
    detector = IsolationForest().fit(data.train)
    scores = detector.score(WindowBatch(data.train.num * 50, data.train.cat, data.train.mask)).score
    assert 0.0 < float(scores.min()) <= float(scores.max()) < 1.0


def test_gains_of_the_cuts_add_up_to_the_depth_saved() -> None:
    data = sample("CLUSTERS")
    detector = IsolationForest(trees=7).fit(data.train)
    inner = detector._column.shape[1]
    for tree in range(7):
        for leaf in range(inner + 1):
            node, gains = leaf + inner, 0.0
            reachable = True
            while node:
                parent, right = (node - 1) // 2, (node - 1) % 2
                finite = bool(detector._threshold[tree, parent].isfinite())
                reachable &= finite or not right
                gains += float(detector._gain[tree, 2 * parent + right])
                node = parent
            if reachable:
                saved = detector._usual - float(detector._length[tree, leaf])
                assert gains == pytest.approx(saved, abs=1e-3)


def test_one_window_is_refused() -> None:
    with pytest.raises(DataError, match="one window"):
        IsolationForest().fit(np.zeros((1, 3)))


def test_a_column_that_never_varied_sets_apart_what_has_another_value_in_it() -> None:
    rng = np.random.default_rng(0)
    usual = rng.normal(size=(2000, 6))
    usual[:, 4:] = 7.0
    detector = IsolationForest().fit(usual)
    fresh = rng.normal(size=(500, 6))
    fresh[:, 4:] = 7.0
    moved, twice = fresh.copy(), fresh.copy()
    moved[:, 4] = 8.0
    twice[:, 4:] = 8.0
    scores = [detector.score(x, explain="full") for x in (fresh, moved, twice)]
    assert bool((scores[1].score > scores[0].score).all())
    assert bool((scores[2].score > scores[1].score).all())
    assert ranking(scores[0].score, scores[1].score) > 0.95
    assert scores[1].feature is not None
    assert bool((scores[1].feature[:, 0].argmax(dim=1) == 4).float().mean() > 0.9)
    # a cut meets one of the two columns, beside four that vary, every third time
    length = -torch.log2(scores[0].score.double()) * detector._usual
    assert float((-torch.log2(scores[2].score.double()) * detector._usual).max()) < 3
    assert float(length.min()) > 3


def test_where_nothing_varied_a_first_cut_sets_apart() -> None:
    detector = IsolationForest().fit(np.zeros((100, 3)))
    same, other = detector.score(np.zeros((1, 3))).score, detector.score(np.ones((1, 3))).score
    assert float(other) == pytest.approx(2 ** (-1 / detector._usual), rel=1e-5)
    assert float(other) > float(same)


# -- count vectors --------------------------------------------------------------------------


def sessions(*lists: list[int]) -> WindowBatch:
    longest = max(map(len, lists))
    ids = [session + [0] * (longest - len(session)) for session in lists]
    return events(ids, [len(session) for session in lists], vocab=10)


COMMON, RARE = [2, 3, 3, 4], [2, 3, 3, 4, 4]


def test_known_counts_score_zero_in_any_order() -> None:
    detector = CountVector().fit(sessions(*[COMMON] * 50, RARE, RARE))
    assert detector.score(sessions([4, 3, 2, 3], [4, 4, 3, 3, 2])).score.tolist() == [0.0, 0.0]


def test_the_distance_is_that_to_the_nearest_counts_in_surprise() -> None:
    detector = CountVector().fit(sessions(*[COMMON] * 50, RARE, RARE))
    score = float(detector.score(sessions([2, 3, 4])).score)
    usual = math.log(54 / 1)  # no session deviates in event 3
    lost = usual * (math.log2(3) - math.log2(2))
    brief = math.log(54) * (math.log2(5) - math.log2(4))
    assert score == pytest.approx(math.hypot(lost, brief), rel=1e-5)


def test_new_events_weigh_more_than_known_ones() -> None:
    detector = CountVector().fit(sessions(*[COMMON] * 50, [*COMMON, 5]))
    known, unseen, new = detector.score(
        sessions([*COMMON[:3], 5], [*COMMON[:3], 6], [*COMMON[:3], 1])
    ).score
    assert known < unseen == new


def test_lengths_beyond_those_seen_raise_the_score() -> None:
    detector = CountVector().fit(sessions(*[COMMON] * 50, RARE))
    scores = detector.score(sessions(*[COMMON + [4] * n for n in (2, 4, 8, 16)])).score
    assert (scores.diff() > 0).all()


def test_where_sessions_repeat_close_ones_are_tolerated() -> None:
    extra = [(threes, fours) for threes in range(6) for fours in range(7)]
    unique = [[*COMMON, *[3] * n, *[4] * m] for n, m in extra if (n, m) not in {(0, 0), (0, 3)}]
    train = sessions(*[COMMON] * 400, *unique)
    close, far = sessions([*COMMON, 4, 4, 4]), sessions([2, 3, 3, 3, 3, 3])
    strict, tolerant = (CountVector(tolerance=t).fit(train) for t in (0.0, 2.0))
    assert float(strict.score(close).score) > 0 == float(tolerant.score(close).score)
    assert float(tolerant.score(far).score) > 0


def test_where_sessions_do_not_repeat_nothing_is_tolerated() -> None:
    rng = np.random.default_rng(0)
    train = events(rng.integers(2, 10, size=(300, 30)), vocab=10)
    detector = CountVector().fit(train)
    assert float(detector._tolerated) == 0
    assert (detector.score(events(rng.integers(2, 10, size=(50, 30)), vocab=10)).score > 0).all()


def test_memory_keeps_the_most_frequent_vectors() -> None:
    train = sessions(*[COMMON] * 9, *[RARE] * 5, [2, 2], [3, 3])
    detector = CountVector(memory=2, tolerance=0.0).fit(train)
    scores = detector.score(sessions(COMMON, RARE, [2, 2])).score
    assert scores[:2].tolist() == [0.0, 0.0]
    assert float(scores[2]) > 0


def test_updates_make_new_sessions_known() -> None:
    detector = CountVector().fit(sessions(*[COMMON] * 20))
    before = float(detector.score(sessions([5, 5])).score)
    after = float(detector.partial_fit(sessions([5, 5])).score(sessions([5, 5])).score)
    assert after == 0 < before


def test_a_surplus_is_shared_by_its_steps() -> None:
    detector = CountVector(tolerance=0.0).fit(sessions(*[COMMON] * 20, RARE))
    scores = detector.score(sessions([2, 3, 7, 3, 4, 7]), explain="full")
    assert scores.step is not None
    assert scores.step[0].nonzero().flatten().tolist() == [2, 5]
    assert float(scores.step[0, 2]) == float(scores.step[0, 5])
    assert float(scores.step.sum()) <= float(scores.score) * (1 + 1e-6)


@pytest.mark.parametrize("name", ["catrec", "sequence"])
def test_anything_but_one_category_field_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"one category field|takes events"):
        CountVector().fit(small(name))


def test_baselines_rank_isolated_points_above_blobs() -> None:
    data = sample("CLUSTERS")
    for cls in (NearestNeighbours, IsolationForest):
        detector = cls().fit(data.train)
        normal, odd = (detector.score(part).score for part in (data.normal, data.anomalous))
        assert ranking(normal, odd) > 0.95


def test_a_spare_dimension_is_no_obstacle() -> None:
    assert (
        len(PrincipalComponents().fit(as_batch(np.zeros((5, 1)))).score(np.ones((2, 1))).score) == 2
    )
