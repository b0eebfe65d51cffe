"""The contractive autoencoder: its penalty is the Jacobian, and it contracts."""

from typing import Any

import pytest
import torch

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.contract_ae import ContractiveAutoencoder, contraction
from detectors.nets.autoencoder import TiedAutoencoder

SMALL: dict[str, Any] = {"batch": 64, "learning_rate": 5e-3}


def test_the_closed_form_is_the_norm_of_the_jacobian() -> None:
    torch.manual_seed(0)
    net = TiedAutoencoder(5, 7, torch.sigmoid)
    net.bias.data.normal_()
    rows = 3 * torch.randn(6, 5)
    found = contraction(net.encode(rows), net.weight)
    for row, value in zip(rows, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(net.encode, row)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(value, jacobian.square().sum())


def learned(penalty: float) -> ContractiveAutoencoder:
    detector = ContractiveAutoencoder(penalty=penalty, **SMALL)
    return detector.fit(sample("SUBSPACE").train, budget=Budget(steps=300))


def test_a_larger_penalty_gives_a_smaller_jacobian() -> None:
    norms = []
    for penalty in (0.0, 0.1, 3.0):
        detector = learned(penalty)
        rows = detector._rows(detector._prepare(sample("SUBSPACE").normal))
        norms.append(float(contraction(detector._net.encode(rows), detector._net.weight).mean()))
    assert norms[0] > 1.2 * norms[1] > 1.44 * norms[2] > 0


def test_what_normal_windows_do_not_need_is_not_copied() -> None:
    data, detector = sample("SUBSPACE"), learned(0.1)
    copied = []
    for windows in (data.normal, data.anomalous):
        rows = detector._rows(detector._prepare(windows))
        left = (rows - detector._net(rows)).square().sum(dim=1) / rows.square().sum(dim=1)
        copied.append(1 - float(left.median()))
    assert copied[0] > 0.9 > 0.5 > copied[1]
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.95


def test_without_real_entries_only_the_penalty_is_left() -> None:
    detector = learned(0.1)
    rows = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    loss = detector._loss(rows, torch.zeros(4, 16, dtype=torch.bool))
    expected = 0.1 * contraction(detector._net.encode(rows), detector._net.weight)
    assert loss.tolist() == pytest.approx(expected.tolist())
