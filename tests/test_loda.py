"""Loda: sparse projections, histograms that updates extend, an explanation by t statistics."""

import numpy as np
import pytest
import torch

from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loda import Loda, _sparse


@pytest.mark.parametrize(("columns", "used"), [(1, 1), (8, 3), (16, 4), (288, 17)])
def test_projections_use_the_square_root_of_the_columns(columns: int, used: int) -> None:
    weights = _sparse(50, columns)
    assert ((weights != 0).sum(dim=1) == used).all()


def test_at_the_centre_of_a_bin_the_score_is_the_log_of_its_share() -> None:
    rng = np.random.default_rng(0)
    detector = Loda(projections=2, bins=8).fit(rng.normal(size=(500, 1)))
    z = detector._scaler(torch.linspace(-3, 3, 40)[:, None])
    for row in z:
        projected = row * detector._weights[:, 0]
        place = ((projected - detector._low) / detector._width - 0.5).clamp(0, 7)
        total = 500 + 0.5 * 8
        expected = 0.0
        for i in range(2):
            share = -np.log((detector._counts[i].numpy() + 0.5) / total)
            expected += float(np.interp(float(place[i]), np.arange(8), share)) / 2
        raw = detector._scaler.inverse(row).reshape(1, 1)
        assert float(detector.score(raw.numpy()).score) == pytest.approx(expected, rel=1e-4)


def test_blame_is_the_two_sample_t_statistic() -> None:
    data = sample("CLUSTERS")
    detector = Loda(projections=40).fit(data.train)
    surprise = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) * 5
    found = detector._blame(surprise)
    for row, blame in zip(surprise, found, strict=True):
        for column in range(8):
            uses = detector._weights[:, column] != 0
            one, other = row[uses], row[~uses]
            error = one.var() / len(one) + other.var() / len(other)
            expected = float((one.mean() - other.mean()) / error.sqrt())
            assert float(blame[column]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_updates_add_the_histograms_and_a_horizon_forgets() -> None:
    data = small("record", windows=300)
    whole = Loda().fit(data)
    twice = Loda().fit(data).partial_fit(data)
    assert torch.equal(twice._counts, 2 * whole._counts)
    brief = Loda(horizon=30).fit(data).partial_fit(data)
    torch.testing.assert_close(brief._counts, 1.1 * whole._counts)
    for _ in range(3):
        brief.partial_fit(data)
    assert float(brief._counts[0].sum()) == pytest.approx(330)


def test_what_becomes_usual_stops_being_anomalous() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(1000, 6)), 2.5 + 0.5 * rng.normal(size=(1000, 6))
    detector = Loda(horizon=200).fit(old)
    before = detector.score(new).score.mean()
    for _ in range(3):
        detector.partial_fit(new)
    assert float(detector.score(new).score.mean()) < 0.6 * float(before)
    assert detector.score(new).score.mean() < detector.score(old).score.mean()


def test_scores_do_not_jump_with_rounding() -> None:
    data = sample("CLUSTERS")
    detector = Loda().fit(data.train)
    moved = data.normal.num * (1 + 1e-6)
    gap = detector.score(moved[:, 0].numpy()).score - detector.score(data.normal).score
    assert float(gap.abs().max()) < 1e-4


def test_many_projections_agree_better_than_few() -> None:
    data = sample("CLUSTERS")
    scores = [
        torch.stack(
            [Loda(projections=k, seed=s).fit(data.train).score(data.normal).score for s in range(4)]
        )
        for k in (5, 200)
    ]
    few, many = (float(found.std(dim=0).mean()) for found in scores)
    assert many < few / 3
