"""RandNet: connections that are missing stay missing, members that learn apart, a vote of all."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.nets.stacked import StackedLinear
from detectors.randnet import RandNet, RandomAutoencoders

SMALL: dict[str, Any] = {"members": 5, "batch": 64}


@cache
def learned() -> RandNet:
    """A detector of SUBSPACE that others may read and not change."""
    detector = RandNet(members=16, learning_rate=1e-2, batch=128)
    return detector.fit(sample("SUBSPACE").train, budget=Budget(steps=300))


def masks(detector: RandNet) -> list[Tensor]:
    return [mask.clone() for name, mask in detector._net.named_buffers() if "mask" in name]


def test_about_63_percent_of_the_places_are_connected() -> None:
    layer = StackedLinear(50, 40, 30, sparse=True)
    assert layer.mask is not None
    assert set(layer.mask.flatten().tolist()) == {0.0, 1.0}
    assert float(layer.mask.mean()) == pytest.approx(1 - 1 / 2.71828, abs=0.01)
    assert not torch.equal(layer.mask[0], layer.mask[1])


def test_a_stacked_layer_is_as_many_layers() -> None:
    torch.manual_seed(0)
    layer, rows = StackedLinear(3, 5, 4), torch.randn(3, 7, 5)
    assert layer.bias is not None
    for m in range(3):
        torch.testing.assert_close(layer(rows)[m], rows[m] @ layer.weight[m] + layer.bias[m])


def test_missing_connections_carry_nothing() -> None:
    torch.manual_seed(0)
    net, rows = RandomAutoencoders(4, [10, 5, 3, 5, 10]), torch.randn(20, 10)
    before = net(rows)
    with torch.no_grad():
        for layer in net.layers:
            assert isinstance(layer, StackedLinear)
            assert layer.mask is not None
            layer.weight[layer.mask == 0] += 100.0
    assert torch.equal(net(rows), before)


def test_connections_are_the_same_after_training_updates_and_loading() -> None:
    data = small("record")
    untrained = RandNet(**SMALL).fit(data, budget=Budget(steps=0))
    detector = RandNet(**SMALL).fit(data, budget=Budget(steps=20))
    before = masks(detector)
    assert len(before) == 4
    assert all(torch.equal(a, b) for a, b in zip(before, masks(untrained), strict=True))
    detector.partial_fit(data)
    again = RandNet(**SMALL)
    shape = detector.shape
    assert shape is not None
    again.take_over(shape, detector.tensors())
    for other in (detector, again):
        assert all(torch.equal(a, b) for a, b in zip(before, masks(other), strict=True))


def test_the_order_of_the_members_does_not_matter() -> None:
    data, detector = small("mixed"), RandNet(**SMALL)
    detector.fit(data, budget=Budget(steps=20))
    expected = detector.score(data, explain="full")
    order, shape = torch.tensor([3, 0, 4, 2, 1]), detector.shape
    assert shape is not None
    stacked = {
        name: tensor[order] if name.startswith("net.") or name == "scale.usual" else tensor
        for name, tensor in detector.tensors().items()
    }
    other = RandNet(**SMALL)
    other.take_over(shape, stacked)
    found = other.score(data, explain="full")
    torch.testing.assert_close(found.score, expected.score)
    torch.testing.assert_close(found.feature, expected.feature)
    torch.testing.assert_close(found.uncertainty, expected.uncertainty)


def test_a_member_that_fails_is_outvoted() -> None:
    data, detector = small("record"), RandNet(**SMALL)
    detector.fit(data, budget=Budget(steps=20))
    before = detector.score(data)
    with torch.no_grad():
        for layer in detector._net.layers:  # type: ignore[union-attr]
            layer.weight[0] = 1e3
    after = detector.score(data)
    assert float(after.score.max()) < 2 * float(before.score.max())
    assert before.uncertainty is not None
    assert after.uncertainty is not None
    assert bool((after.uncertainty > before.uncertainty).all())


def test_members_see_records_of_their_own_in_growing_batches() -> None:
    detector = RandNet(members=3, first_batch=4, growth=2.0, batch=20, epochs=2)
    sizes = [detector._batch_size(steps, 20) for steps in range(6)]
    assert sizes == [4, 8, 16, 20, 20, 20]
    assert detector._batch_size(10**9, 20) == 20
    seen: list[Tensor] = []
    data = small("record", windows=200)
    build = detector._build

    def watched() -> torch.nn.Module:
        net = build()
        net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        return net

    detector._build = watched  # type: ignore[method-assign]
    detector.fit(data)
    shown = [rows for rows in seen if rows.dim() == 3]
    assert [rows.shape[1] for rows in shown[:4]] == [4, 8, 16, 20]
    assert not torch.equal(shown[0][0], shown[0][1])


def test_errors_of_each_member_are_in_units_of_their_spread() -> None:
    detector, late = learned(), sample("SUBSPACE").train[-200:]
    errors = detector._member_errors(detector._prepare(late))
    spread = errors.std(dim=1, correction=0)
    assert float(spread.max() / spread.min()) > 1.2
    torch.testing.assert_close(spread, detector._scale.usual.sqrt(), rtol=1e-3, atol=1e-4)


def test_points_off_the_subspace_score_above_normal_ones() -> None:
    data, detector = sample("SUBSPACE"), learned()
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.9
