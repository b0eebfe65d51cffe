"""k-means: brute force, rest of Lloyd's algorithm, trimming, running means."""

import numpy as np
import pytest
import torch

from detectors.checks.sources import sample
from detectors.checks.subject import join, small
from detectors.kmeans_ad import KMeans
from detectors.loops.clustering import nearest_mean, spread_start


def test_distances_equal_brute_force_over_real_entries() -> None:
    detector, data = KMeans(clusters=6).fit(small("series")), small("series", seed=2)
    rows = detector._prepare(data).num.flatten(1)
    for row, score, steps in zip(rows, detector.score(data).score, data.lengths, strict=True):
        n = 4 * int(steps)
        gaps = (detector._centres[:, :n] - row[:n]).square().mean(dim=1).sqrt()
        assert float(score) == pytest.approx(float(gaps.min()), rel=1e-4)


def test_at_rest_every_centre_is_the_mean_of_its_windows() -> None:
    data = sample("CLUSTERS").train
    detector = KMeans(clusters=5).fit(data)
    x, real = detector._entries(detector._prepare(data))
    _, index = nearest_mean(x, real, detector._centres)
    for cluster in range(5):
        mean = x[index == cluster].mean(dim=0)
        torch.testing.assert_close(detector._centres[cluster], mean, atol=0.02, rtol=0.02)


def test_three_blobs_are_found_whatever_the_seed() -> None:
    data = sample("CLUSTERS").train
    means = [
        float(KMeans(clusters=3, seed=seed).fit(data).score(data).score.mean()) for seed in range(5)
    ]
    assert max(means) < 1.05 * min(means)


def test_the_start_never_draws_the_same_window_twice() -> None:
    torch.manual_seed(0)
    x = torch.arange(10.0).unsqueeze(1)
    centres = spread_start(x, torch.ones_like(x), 10)
    assert sorted(centres[:, 0].tolist()) == x[:, 0].tolist()


def test_trimming_keeps_a_clump_of_anomalies_from_pulling_at_the_means() -> None:
    rng = np.random.default_rng(0)
    train = np.vstack([rng.normal(size=(480, 4)), 7 + 0.1 * rng.normal(size=(20, 4))])
    plain, trimmed = (KMeans(clusters=1, trim=trim).fit(train) for trim in (0.0, 0.05))
    assert trimmed.report.trimmed == 25
    assert float(trimmed._centres.abs().max()) < float(plain._centres.abs().max()) / 2


def test_updates_move_a_centre_like_a_running_mean() -> None:
    data, more = small("record", windows=100), small("record", seed=5, windows=50)
    detector = KMeans(clusters=1).fit(data).partial_fit(more)
    rows = detector._prepare(join([data, more])).num.flatten(1)
    torch.testing.assert_close(detector._centres[0], rows.mean(dim=0), atol=1e-5, rtol=1e-4)
    brief = KMeans(clusters=1, horizon=1).fit(data).partial_fit(more)
    fresh = detector._prepare(more).num.flatten(1).mean(dim=0)
    torch.testing.assert_close(brief._centres[0], fresh, atol=0.1, rtol=0.0)


def test_more_clusters_than_windows_remember_every_window() -> None:
    data = small("record")[:7]
    assert float(KMeans().fit(data).score(data).score.max()) == 0.0
