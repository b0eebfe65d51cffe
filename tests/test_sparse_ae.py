"""The sparse autoencoder: exactly the strongest units, all of them at the start."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.nets.autoencoder import TiedAutoencoder
from detectors.sparse_ae import SparseAutoencoder, strongest

SMALL: dict[str, Any] = {"batch": 64, "learning_rate": 5e-3}


def codes_of(detector: SparseAutoencoder, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Code of rows, and what it was chosen from."""
    net = detector._net
    assert isinstance(net, TiedAutoencoder)
    return net.encode(rows), rows @ net.weight.T + net.bias


@pytest.mark.parametrize(
    ("relax", "training"), [(1.0, True), (1.0, False), (2.3, True), (2.3, False)]
)
def test_exactly_the_largest_units_are_active(relax: float, training: bool) -> None:
    detector = SparseAutoencoder(hidden=50, active=0.1, relax=relax)
    detector.fit(small("record"), budget=Budget(steps=5))
    detector._net.train(training)
    rows = detector._rows(detector._prepare(small("record", seed=2)))
    codes, raw = codes_of(detector, rows)
    k = 5 if training else math.ceil(relax * 5)
    assert ((codes != 0).sum(dim=1) == k).all()
    least = torch.where(codes != 0, raw, torch.inf).amin(dim=1)
    most = torch.where(codes == 0, raw, -torch.inf).amax(dim=1)
    assert (least >= most).all()
    torch.testing.assert_close(codes[codes != 0], raw[codes != 0])


def test_among_equals_no_more_than_k_are_kept() -> None:
    kept = strongest(torch.ones(3, 6), 2)
    assert kept.sum(dim=1).tolist() == [2.0, 2.0, 2.0]


def test_largest_is_not_furthest_from_zero() -> None:
    assert strongest(torch.tensor([[-9.0, 1.0, 2.0]]), 1).tolist() == [[0.0, 0.0, 2.0]]


def test_active_units_fall_from_all_to_k_over_half_of_the_epochs() -> None:
    detector = SparseAutoencoder(hidden=40, active=0.1, epochs=8, batch=16)
    seen: list[int] = []
    kept = detector._kept
    detector._kept = lambda units: seen.append(kept(units)) or kept(units)  # type: ignore[method-assign, func-returns-value]
    detector.fit(small("record"))
    assert seen[0] == 40
    assert sorted(set(seen), reverse=True) == [40, 31, 22, 13, 4]
    assert detector.warmth == 1.0


def test_most_units_are_used_somewhere() -> None:
    data = sample("SUBSPACE")
    detector = SparseAutoencoder(**SMALL).fit(data.train, budget=Budget(steps=400))
    codes, _ = codes_of(detector, detector._rows(detector._prepare(data.train)))
    used = (codes != 0).float().mean(dim=0) > 0.001
    assert float(used.float().mean()) > 0.5
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_trimming_keeps_a_recurring_anomaly_from_getting_its_own_atoms(seed: int) -> None:
    data = sample("FEWLABELS")  # ten of two thousand windows are of one kind
    shares = []
    for detector in (SparseAutoencoder(seed=seed), SparseAutoencoder(seed=seed, trim=0.0)):
        detector.fit(data.train)  # at the default learning rate: a higher one outruns trimming
        normal, anomalous = detector.score(data.normal).score, detector.score(data.anomalous).score
        shares.append(ranking(normal, anomalous))
    assert shares[0] > 0.9 > 0.5 > shares[1]
