"""Autoencoder and machine as one: what is minimised, what stays, what the promise is worth."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from detectors import Budget
from detectors.ae1svm import JointOcSvm
from detectors.capabilities import Source
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.stage import Run

SMALL: dict[str, Any] = {"code": 8, "frequencies": 128, "batch": 64, "learning_rate": 5e-3}


@cache
def learned(source: Source) -> JointOcSvm:
    """A detector that others may read and not change."""
    return JointOcSvm(**SMALL).fit(sample(source).train, budget=Budget(steps=300))


def auc(detector: JointOcSvm, source: Source) -> float:
    data = sample(source)
    return ranking(detector.score(data.normal).score, detector.score(data.anomalous).score)


def features(detector: JointOcSvm, rows: Tensor) -> Tensor:
    return detector._features(detector._codes(rows, torch.ones_like(rows)))


def test_codes_tell_what_is_in_no_blob() -> None:
    assert auc(learned("CLUSTERS"), "CLUSTERS") > 0.9


def test_errors_show_what_codes_do_not() -> None:
    plain = learned("SUBSPACE")
    with_errors = JointOcSvm(**SMALL, residual=True)
    with_errors.take_over(plain._fitted(), plain.tensors())
    assert auc(plain, "SUBSPACE") < 0.6
    assert auc(with_errors, "SUBSPACE") > 0.9


@pytest.mark.parametrize("nu", [0.05, 0.3])
def test_scores_above_zero_are_a_share_of_the_fit(nu: float) -> None:
    data = sample("CLUSTERS").train
    detector = JointOcSvm(**SMALL, nu=nu).fit(data, budget=Budget(steps=60))
    outside = float((detector.score(data).score > 0).float().mean())
    assert outside == pytest.approx(nu, abs=2e-3)


def test_the_loss_by_hand() -> None:
    detector, data = learned("CLUSTERS"), sample("CLUSTERS").normal
    state, batch = detector.tensors(), detector._prepare(data)
    rows = batch.num[:, 0]
    weight, rho = state["machines.weight"][0], state["machines.rho"][0]
    errors = (rows - detector._net(rows)).square().sum(dim=1)
    within = features(detector, rows)[:, 0] @ weight
    outside = (rho - within).clamp(min=0) / 0.1
    expected = 10 * errors + 0.5 * weight.square().sum() - rho + outside
    torch.testing.assert_close(detector._loss(batch), expected, atol=1e-4, rtol=1e-4)


def test_features_have_length_one_and_approximate_the_kernel() -> None:
    detector, data = learned("CLUSTERS"), sample("CLUSTERS").normal[:50]
    rows = detector._prepare(data).num[:, 0]
    h = features(detector, rows)[:, 0]
    torch.testing.assert_close(h.norm(dim=1), torch.ones(50))
    codes = detector._codes(rows, torch.ones_like(rows))[:, 0] / detector._scale[0]
    deviation = 1 / float(detector._fourier.frequencies.std())
    kernel = (-torch.cdist(codes, codes).square() / (2 * deviation**2)).exp()
    assert float((h @ h.T - kernel).abs().max()) < 0.35  # four deviations of 1 / sqrt(128)


def test_training_as_one_gathers_the_codes_and_reconstruction_keeps_them_apart() -> None:
    data = sample("CLUSTERS").train
    found = {}
    for reconstruction in (1e-3, 1e3):
        detector = JointOcSvm(**SMALL, reconstruction=reconstruction)
        detector.fit(data, budget=Budget(steps=250))
        rows = detector._prepare(data).num[:, 0]
        objective = float(detector._machines.objective(features(detector, rows), 0.1).mean())
        error = float((rows - detector._net(rows)).square().mean())
        found[reconstruction] = objective, error
    assert found[1e-3][0] < found[1e3][0] - 0.05
    assert found[1e-3][1] > 1.5 * found[1e3][1]


def test_training_as_one_changes_encoder_and_machine_but_no_feature() -> None:
    data = small("record", windows=200)
    detector = JointOcSvm(**SMALL).fit(data, budget=Budget(steps=2))
    before = {name: tensor.clone() for name, tensor in detector.tensors().items()}
    settings = msgspec.structs.replace(detector.config, epochs=2)
    run = Run(0, Budget(), detector.report)
    detector._join(run, settings, detector._prepare(data))
    changed = {n for n, t in detector.tensors().items() if not torch.equal(t, before[n])}
    assert {"machines.weight", "machines.rho", "net.nets.0.encoder.0.weight"} <= changed
    fixed = {"frequencies", "scale", "examples", "machines.spread", "machines.count"}
    assert not fixed & changed


def test_updates_keep_the_features() -> None:
    data, other = small("record"), small("record", seed=5)
    detector = JointOcSvm(**SMALL).fit(data, budget=Budget(steps=2))
    before = {name: tensor.clone() for name, tensor in detector.tensors().items()}
    detector.partial_fit(other, budget=Budget(steps=3))
    for name in ("frequencies", "scale"):
        assert torch.equal(detector.tensors()[name], before[name])
    assert not torch.equal(detector.tensors()["machines.rho"], before["machines.rho"])
    assert float(detector._machines.count) == len(data) + len(other)


def test_a_mixed_record_has_one_code() -> None:
    data = small("mixed")
    detector = JointOcSvm(**SMALL).fit(data, budget=Budget(steps=2))
    assert len(detector._net.widths) == 1
    assert detector._machines.weight.shape == (1, 256)
