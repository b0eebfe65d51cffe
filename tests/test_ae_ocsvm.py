"""One-class machines on codes: the shortest weights, the promised share, what codes cannot see."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from sklearn.svm import OneClassSVM
from torch import Tensor

from detectors import Budget
from detectors.ae_ocsvm import AutoencoderOcSvm
from detectors.capabilities import Source
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.moments import FLOOR
from detectors.loops.ocsvm import OneClassMachines

SMALL: dict[str, Any] = {"hidden": (32,), "code": 8, "frequencies": 128, "batch": 64}


@cache
def learned(source: Source, head: str) -> AutoencoderOcSvm:
    """A detector that others may read and not change."""
    detector = AutoencoderOcSvm(**SMALL, head=head, learning_rate=5e-3)
    return detector.fit(sample(source).train, budget=Budget(steps=300))


def with_errors(plain: AutoencoderOcSvm) -> AutoencoderOcSvm:
    """The same but for its score."""
    detector = AutoencoderOcSvm(**SMALL, residual=True)
    detector.take_over(plain._fitted(), plain.tensors())
    return detector


def auc(detector: AutoencoderOcSvm, source: Source) -> float:
    data = sample(source)
    return ranking(detector.score(data.normal).score, detector.score(data.anomalous).score)


def features(count: int = 300) -> Tensor:
    """Two machines' worth of points of length 1, off the origin."""
    rows = torch.randn(count, 2, 6, generator=torch.Generator().manual_seed(0)) + 1
    return torch.nn.functional.normalize(rows, dim=2)


@pytest.mark.parametrize("nu", [0.1, 0.5])
def test_the_weights_are_those_of_a_support_vector_machine(nu: float) -> None:
    rows = features()
    machines = OneClassMachines(2, 6)
    machines.solve(rows, nu)
    for i in (0, 1):
        known = OneClassSVM(kernel="linear", nu=nu, tol=1e-9).fit(rows[:, i].numpy())
        # scikit-learn leaves out the division by nu N
        expected = torch.from_numpy(known.coef_[0] / (nu * len(rows))).float()
        torch.testing.assert_close(machines.weight[i], expected, rtol=0, atol=3e-3)


def test_a_share_of_the_windows_lies_outside_and_weights_near_by_are_worse() -> None:
    rows, nu = features(), 0.2
    machines = OneClassMachines(2, 6).requires_grad_(False)
    machines.solve(rows, nu)
    machines.settle(machines.outputs(rows), nu)
    outside = (machines.rho - machines.outputs(rows) > 0).sum(dim=0)
    assert outside.tolist() == pytest.approx([60, 60], abs=1)  # the one on the boundary is rounded
    best = float(machines.objective(rows, nu).mean())
    generator = torch.Generator().manual_seed(1)
    for part in (machines.weight, machines.rho):
        held = part.clone()
        for _ in range(20):
            part.copy_(held + 0.05 * torch.randn(held.shape, generator=generator))
            assert float(machines.objective(rows, nu).mean()) > best
        part.copy_(held)


@pytest.mark.parametrize("nu", [0.05, 0.3])
@pytest.mark.parametrize(("head", "source"), [("fourier", "CLUSTERS"), ("linear", "ONESIDED")])
def test_scores_above_zero_are_a_share_of_the_fit(head: str, source: Source, nu: float) -> None:
    data = sample(source).train
    detector = AutoencoderOcSvm(**SMALL, head=head, nu=nu).fit(data, budget=Budget(steps=30))
    outside = float((detector.score(data).score > 0).float().mean())
    assert outside == pytest.approx(nu, abs=2e-3)


def test_the_score_by_hand() -> None:
    detector, data = learned("CLUSTERS", "fourier"), sample("CLUSTERS").normal
    state, rows = detector.tensors(), detector._prepare(data).num[:, 0]
    weight, bias = (
        [state[f"net.nets.0.encoder.{i}.{name}"] for i in (0, 2)] for name in ("weight", "bias")
    )
    codes = ((rows @ weight[0].T + bias[0]).relu() @ weight[1].T + bias[1]).sigmoid()
    angle = codes / state["scale"][0] @ state["frequencies"][0].T
    h = torch.cat([angle.cos(), angle.sin()], dim=1) / len(state["frequencies"][0]) ** 0.5
    outside = state["machines.rho"][0] - h @ state["machines.weight"][0]
    expected = outside / state["machines.spread"][0]
    torch.testing.assert_close(detector.score(data).score, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", ["fourier", "linear"])
def test_the_unit_of_the_codes_does_not_matter(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sample("CLUSTERS")
    detector = AutoencoderOcSvm(**SMALL, head=head).fit(data.train, budget=Budget(steps=30))
    expected = detector.score(data.normal).score
    codes = detector._codes
    monkeypatch.setattr(detector, "_codes", lambda rows, real: 9 * codes(rows, real))
    torch.manual_seed(0)
    detector._learn_head(detector._prepare(data.train), None)  # type: ignore[arg-type]
    found = detector.score(data.normal).score
    if head == "linear":  # nothing is drawn
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    monkeypatch.undo()
    torch.manual_seed(0)
    detector._learn_head(detector._prepare(data.train), None)  # type: ignore[arg-type]
    again = detector.score(data.normal).score
    torch.testing.assert_close(found, again, atol=1e-3, rtol=1e-3)


def test_what_either_head_sees() -> None:
    assert auc(learned("CLUSTERS", "fourier"), "CLUSTERS") > 0.9
    assert auc(learned("CLUSTERS", "linear"), "CLUSTERS") < 0.7
    assert auc(learned("ONESIDED", "linear"), "ONESIDED") > 0.6  # scaling has centred it
    data = sample("ONESIDED")  # as it is
    machine = OneClassMachines(1, 8).requires_grad_(False)
    machine.solve(data.train.num, 0.1)
    assert ranking(machine(data.normal.num), machine(data.anomalous.num)) > 0.95


def test_errors_show_what_codes_do_not() -> None:
    plain = learned("SUBSPACE", "fourier")
    assert auc(plain, "SUBSPACE") < 0.6
    assert auc(with_errors(plain), "SUBSPACE") > 0.9


def test_the_error_is_added_as_a_deviation_from_the_usual() -> None:
    data = sample("SUBSPACE")
    detector = with_errors(learned("SUBSPACE", "fourier"))
    batch = detector._prepare(data.normal)
    rows = batch.num[:, 0]
    errors = (rows - detector._net(rows)).square().mean(dim=1)
    late = detector._prepare(data.train[-200:]).num[:, 0]
    usual = (late - detector._net(late)).square().mean(dim=1)
    deviation = (errors - usual.mean()) / (usual.var(correction=0) + FLOOR).sqrt()
    codes = detector._machines(detector._features(detector._codes(*detector._rows(batch))))
    found = detector.score(data.normal).score
    torch.testing.assert_close(found, codes + deviation, atol=1e-2, rtol=1e-2)


def test_several_views_weigh_alike() -> None:
    data = small("mixed")
    detector = AutoencoderOcSvm(**SMALL).fit(data, budget=Budget(steps=2))
    machines, batch = detector._machines, detector._prepare(data)
    h = detector._features(detector._codes(*detector._rows(batch)))
    assert h.shape == (len(data), 3, 256)
    each = (machines.rho - (h * machines.weight).sum(dim=2)) / machines.spread
    torch.testing.assert_close(detector.score(data).score, each.mean(dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(each.std(dim=0, correction=0), torch.ones(3))


def test_updates_move_the_machines_and_nothing_else() -> None:
    data, other = small("record"), small("record", seed=5)[:12]
    detector = AutoencoderOcSvm(**SMALL).fit(data, budget=Budget(steps=2))
    before = {name: tensor.clone() for name, tensor in detector.tensors().items()}
    detector.partial_fit(other)
    changed = {n for n, t in detector.tensors().items() if not torch.equal(t, before[n])}
    assert changed == {
        *(f"machines.{part}" for part in ("weight", "rho", "spread", "count")),
        *(f"usual.{part}" for part in ("mean", "covariance", "count")),
    }
    assert float(detector._machines.count) == 60


def test_machines_blend_by_their_counts() -> None:
    one, other = OneClassMachines(1, 2), OneClassMachines(1, 2)
    for machines, rho, count in ((one, 1.0, 30), (other, 5.0, 10)):
        machines.requires_grad_(False)
        machines.rho.fill_(rho)
        machines.count.fill_(count)
    one.blend(other)
    assert float(one.rho) == 2.0
    assert float(one.count) == 40
    one.count.fill_(1e9)  # so many windows would stand still for ever
    one.blend(other)
    assert float(one.rho) == pytest.approx(2 + 3 / 11)
