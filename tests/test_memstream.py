"""MemStream: distances by hand, a memory that follows the normal stream and nothing else."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detectors import Budget, as_batch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.memstream import MemStream

SMALL: dict[str, Any] = {"batch": 64, "learning_rate": 5e-3}


@cache
def learned() -> MemStream:
    """A detector of CLUSTERS that others may read and not change."""
    return MemStream(**SMALL).fit(sample("CLUSTERS").train, budget=Budget(steps=200))


def weights(detector: MemStream) -> list[Tensor]:
    return [tensor.clone() for tensor in detector._net.state_dict().values()]


@pytest.mark.parametrize(("neighbours", "discount"), [(1, 0.5), (3, 0.0), (3, 0.5), (4, 1.0)])
def test_the_score_is_the_discounted_distance_to_the_nearest_codes(
    neighbours: int, discount: float
) -> None:
    data, other = small("record"), small("record", seed=2)
    detector = MemStream(neighbours=neighbours, discount=discount)
    detector.fit(data, budget=Budget(steps=5))
    codes = detector._net.encode(detector._rows(detector._prepare(other)))
    memory = detector._net.encode(detector._rows(detector._prepare(data)))
    assert len(memory) == len(detector._memory)
    expected = []
    for code in codes:
        nearest = (memory - code).abs().sum(dim=1).sort().values[:neighbours]
        weight = torch.tensor([discount**i for i in range(neighbours)])
        expected.append((nearest * weight).sum() / weight.sum())
    torch.testing.assert_close(detector.score(other).score, torch.stack(expected))


def test_codes_have_twice_as_many_units_as_there_are_columns() -> None:
    detector = MemStream().fit(small("mixed"), budget=Budget(steps=2))
    assert detector._codes.shape == (48, 2 * (3 + 8 + 1))
    assert float(detector._codes.abs().max()) <= 1


def test_the_latest_windows_are_remembered_oldest_first() -> None:
    data = small("record", windows=100)
    detector = MemStream(memory=30).fit(data, budget=Budget(steps=2))
    torch.testing.assert_close(detector._memory, detector._rows(detector._prepare(data))[-30:])


def test_an_update_takes_in_what_is_usual_and_drops_the_oldest() -> None:
    data = small("record", windows=100)
    detector = MemStream(memory=30, admit=1.0).fit(data, budget=Budget(steps=20))
    before, network = detector._memory.clone(), weights(detector)
    new = data[5:12]
    scores = detector.score(new).score
    usual = scores <= detector._beta
    assert bool(usual.any())
    detector.partial_fit(new)
    taken = detector._rows(detector._prepare(new))[usual]
    torch.testing.assert_close(detector._memory, torch.cat([before, taken])[-30:])
    assert all(torch.equal(a, b) for a, b in zip(network, weights(detector), strict=True))
    assert detector.report.trimmed == len(new) - len(taken)


def test_anomalies_are_not_taken_in() -> None:
    source = sample("CLUSTERS")
    detector = MemStream(**SMALL, memory=500).fit(source.train, budget=Budget(steps=200))
    shown, others = source.anomalous[:250], source.anomalous[250:]
    before = detector.score(others).score
    detector.partial_fit(shown)
    assert detector.report.trimmed > 190
    assert float(detector.score(others).score.median() / before.median()) > 0.8


def test_beta_admits_the_share_of_normal_windows_that_it_says() -> None:
    source = sample("CLUSTERS")
    scores = learned().score(source.normal).score
    assert float((scores <= learned()._beta).float().mean()) == pytest.approx(0.95, abs=0.04)


def test_a_slow_drift_is_followed() -> None:
    rng = np.random.default_rng(0)
    detector = MemStream(memory=300, batch=64).fit(rng.normal(size=(600, 4)))
    still = MemStream(memory=300, batch=64).fit(rng.normal(size=(600, 4)))
    for step in range(60):
        detector.partial_fit(0.05 * step + rng.normal(size=(60, 4)))
    moved = as_batch(3.0 + rng.normal(size=(300, 4)))
    followed = float(detector.score(moved).score.median() / detector._beta)
    left_behind = float(still.score(moved).score.median() / still._beta)
    assert followed < 1.0 < left_behind


def test_it_ranks_points_in_no_blob_above_normal_ones() -> None:
    data, detector = sample("CLUSTERS"), learned()
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.9
