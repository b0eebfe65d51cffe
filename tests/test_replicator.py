"""The replicator network: stairs, gradients on plateaus, and cells that follow the clusters."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from detectors import Budget, as_batch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.replicator import Replicator, ReplicatorNet, staircase


@cache
def learned() -> Replicator:
    """A detector of CLUSTERS that others may read and not change."""
    detector = Replicator(batch=64, learning_rate=1e-2)
    return detector.fit(sample("CLUSTERS").train, budget=Budget(steps=600))


@pytest.mark.parametrize("levels", [2, 4, 7])
def test_the_staircase_rises_in_plateaus_from_zero_to_one(levels: int) -> None:
    inputs = torch.linspace(-0.5, 1.5, 4001, dtype=torch.float64)
    stairs = staircase(inputs, levels, 100.0)
    assert (stairs.diff() >= 0).all()
    assert 0 <= float(stairs.min()) < 1e-6 < 1 - 1e-6 < float(stairs.max()) <= 1
    jumps = torch.arange(1, levels) / levels
    clear = (inputs.unsqueeze(1) - jumps).abs().amin(dim=1) > 0.04
    scaled = stairs[clear] * (levels - 1)
    assert float((scaled - scaled.round()).abs().max()) < 1e-3 * (levels - 1)
    assert sorted(set(scaled.round().tolist())) == list(range(levels))


def test_training_sees_the_steep_values_and_a_gentle_gradient() -> None:
    torch.manual_seed(0)
    net, rows = ReplicatorNet(5, 8, 3, 4, 100.0), torch.randn(50, 5)
    trained = net.train().code(rows)
    trained.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(trained, net.eval().code(rows))
    weight = net.encoder[2].weight.grad
    assert isinstance(weight, Tensor)
    assert (weight.abs().amax(dim=1) > 1e-2).all()


def entropy(cells: Tensor) -> float:
    """Of the distribution of codes ``[N, K]``, in nats."""
    _, counts = np.unique(cells.numpy(), axis=0, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def test_the_levels_of_some_unit_vary_less_inside_a_blob_than_over_all_data() -> None:
    detector, data = learned(), sample("CLUSTERS").train
    net = detector._net
    assert isinstance(net, ReplicatorNet)
    levels = (net.code(detector._rows(detector._prepare(data))) * 3).round()
    blob = data.num[:, 0, :3].argmax(dim=1)
    # unit by unit: of cells of all units nearly every window has one of its own
    told = [
        entropy(unit) - sum(entropy(unit[blob == b]) for b in range(3)) / 3
        for unit in torch.split(levels, 1, dim=1)
    ]
    assert max(told) > 0.3  # of log 3 = 1.1 nats that tell three blobs apart
    assert sum(told) > 0.6


def test_copies_are_bounded_however_far_out_a_record_lies() -> None:
    detector = learned()
    far = detector.score(as_batch(torch.full((1, 8), 1e6)), explain="full").expected
    seen = detector.score(sample("CLUSTERS").train, explain="full").expected
    assert far is not None
    assert seen is not None
    assert float(far.abs().max()) < 3 * float(seen.abs().max())


def test_points_in_no_blob_score_above_normal_ones() -> None:
    data, detector = sample("CLUSTERS"), learned()
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.9
