"""The robust autoencoder: the proximal step, what ends up in S, and what no longer teaches."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from detectors import Budget, WindowBatch, as_batch
from detectors.ae import Autoencoder
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.nets.autoencoder import DenseAutoencoder
from detectors.rda import TIE_BREAKER, Penalty, RobustAutoencoder, shrink

SMALL: dict[str, Any] = {"code": 4, "batch": 64, "learning_rate": 1e-2}


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        ("cells", [[2.0, -3.0], [0.0, 0.0], [0.0, 0.0]]),
        ("rows", [[2.4, -3.2], [0.0, 0.0], [0.0, 0.0]]),
    ],
)
def test_the_proximal_step_by_hand(penalty: Penalty, expected: list[list[float]]) -> None:
    residual = torch.tensor([[3.0, -4.0], [0.6, -0.8], [0.0, 0.0]])
    found = shrink(residual, torch.tensor(1.0), penalty)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("penalty", ["cells", "rows"])
def test_a_larger_threshold_gives_a_smaller_and_sparser_part(penalty: Penalty) -> None:
    residual = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    parts = [shrink(residual, torch.tensor(size), penalty) for size in (0.0, 0.5, 1.0, 2.5, 99.0)]
    masses = [float(part.abs().sum()) for part in parts]
    filled = [int((part != 0).sum()) for part in parts]
    assert masses == sorted(masses, reverse=True)
    assert filled == sorted(filled, reverse=True)
    assert torch.equal(parts[0], residual)
    assert filled[-1] == 0


@pytest.mark.parametrize("penalty", ["cells", "rows"])
def test_the_learned_threshold_flags_the_share_asked_for(penalty: Penalty) -> None:
    data = sample("SUBSPACE").train
    detector = RobustAutoencoder(penalty=penalty, flagged=0.1, **SMALL)
    detector.fit(data, budget=Budget(steps=60))
    early = detector._rows(detector._prepare(data))[:1800]
    left = shrink(early - detector._net(early), detector._threshold, penalty)
    flagged = (left != 0).any(dim=1) if penalty == "rows" else left != 0
    assert float(flagged.float().mean()) == pytest.approx(0.1, abs=0.002)
    if penalty == "rows":
        assert detector.report.trimmed == pytest.approx(180, abs=2)
    else:
        assert 180 < detector.report.trimmed < 1800


def corrupted(data: WindowBatch) -> tuple[WindowBatch, torch.Tensor]:
    """One percent of the entries far off, and which."""
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(data.num.shape, generator=generator) < 0.01
    return replace(data, num=data.num + 6.0 * wrong), wrong[:, 0]


@cache
def learned(threshold: float | None) -> RobustAutoencoder:
    """A detector of spoilt SUBSPACE that others may read and not change."""
    detector = RobustAutoencoder(threshold=threshold, **SMALL)
    return detector.fit(corrupted(sample("SUBSPACE").train)[0], budget=Budget(steps=500))


def test_the_mass_of_the_sparse_part_lies_in_the_corrupted_entries() -> None:
    data, wrong = corrupted(sample("SUBSPACE").train)
    detector = learned(None)
    rows = detector._rows(detector._prepare(data))
    left = shrink(rows - detector._net(rows), detector._threshold, "cells").abs()
    assert float(left[wrong].sum() / left.sum()) > 0.5  # of one entry in a hundred
    assert float(left[wrong].mean()) > 50 * float(left[~wrong].mean())


def test_beyond_a_huge_threshold_it_is_a_plain_autoencoder() -> None:
    data, detector = sample("SUBSPACE").normal, learned(1e6)
    rows = detector._rows(detector._prepare(data))
    plain = TIE_BREAKER * (rows - detector._net(rows)).abs().mean(dim=1)
    torch.testing.assert_close(detector.score(data).score, plain)


class Plain(Autoencoder):
    """The plain autoencoder, with the network of the robust one."""

    def _network(self, columns: int) -> nn.Module:
        return DenseAutoencoder(columns, (64,), 4, activation=nn.Sigmoid)


def test_beyond_a_huge_threshold_it_learns_what_a_plain_autoencoder_learns() -> None:
    data, budget = sample("SUBSPACE").train, Budget(steps=28)  # one epoch, after which both judge
    robust = RobustAutoencoder(seed=3, threshold=1e6, **SMALL).fit(data, budget=budget)
    plain = Plain(seed=3, trim=0.0, whiten=False, **SMALL).fit(data, budget=budget)
    for name, tensor in plain._net.state_dict().items():
        torch.testing.assert_close(robust._net.state_dict()[name], tensor)
    flagging = RobustAutoencoder(seed=3, threshold=0.1, **SMALL).fit(data, budget=Budget(steps=90))
    assert flagging.report.trimmed


def test_anomalies_in_the_training_data_are_not_learned() -> None:
    data = sample("SUBSPACE")
    one_kind = as_batch(data.anomalous.num[:1, 0].repeat(60, 1))  # three percent, all alike
    rows = torch.cat([data.train.num[:, 0], one_kind.num[:, 0]])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    train = as_batch(rows[order])
    found = []
    for settings in ({"threshold": 1e6}, {"penalty": "rows", "flagged": 0.06}):
        detector = RobustAutoencoder(**SMALL, **settings)
        detector.fit(train, budget=Budget(steps=800))
        copied = detector._net(detector._rows(detector._prepare(one_kind[:1])))
        truth = detector._rows(detector._prepare(one_kind[:1]))
        found.append(float((truth - copied).norm() / truth.norm()))
    assert found[0] < 0.5 < found[1]


def test_an_update_keeps_the_threshold() -> None:
    detector = RobustAutoencoder().fit(small("series"), budget=Budget(steps=5))
    threshold = detector._threshold.clone()
    detector.partial_fit(small("series", seed=5), budget=Budget(steps=5))
    assert torch.equal(detector._threshold, threshold)
    assert float(threshold) > 0


def test_points_off_the_subspace_score_above_normal_ones() -> None:
    data, detector = sample("SUBSPACE"), learned(None)
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.95
