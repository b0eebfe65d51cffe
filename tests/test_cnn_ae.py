"""Convolutions see windows of any length, wherever in them something happens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors import create
from detectors.nets.conv import ConvAutoencoder, code_mean


@pytest.mark.parametrize("inner", [(), (16, 8)])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 30, 31])
def test_windows_of_any_length_come_back_as_long(steps: int, inner: tuple[int, ...]) -> None:
    net = ConvAutoencoder(3, 8, 4, inner=inner)
    found = net(torch.randn(2, steps, 3), torch.ones(2, steps, dtype=torch.bool))
    assert found.shape == (2, steps, 8)


@pytest.mark.parametrize("inner", [(), (16, 8)])
def test_nothing_under_the_mask_reaches_a_real_step(inner: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net, x = ConvAutoencoder(3, 8, 4, inner=inner), torch.randn(4, 23, 3)
    mask = torch.arange(23) < torch.tensor([[23], [14], [9], [1]])
    x = x * mask.unsqueeze(2)
    whole = net(x, mask)
    for window, length in zip(x, (23, 14, 9, 1), strict=True):
        alone = net(window[None, :length], torch.ones(1, length, dtype=torch.bool))
        row = (x == window).all(dim=(1, 2)).nonzero()[0, 0]
        assert torch.allclose(alone[0], whole[row, :length], atol=1e-6)
        assert (whole[row, length:] == 0).all()


def test_the_mean_of_codes_knows_no_padding() -> None:
    codes = torch.arange(1.0, 7.0).view(1, 1, 6).repeat(3, 2, 1)
    mask = torch.arange(24) < torch.tensor([[24], [5], [4]])
    expected = torch.tensor([3.5, 1.5, 1.0])  # a code at steps 0, 4, 8, ...
    assert torch.equal(code_mean(codes, mask), expected.unsqueeze(1).repeat(1, 2))
    nothing = torch.zeros(3, 24, dtype=torch.bool)
    assert not code_mean(codes, nothing).any()


def test_a_spike_that_moves_by_the_stride_moves_the_residual_as_far() -> None:
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6.28, size=(600, 1))
    waves = np.sin(2 * np.pi * np.arange(48) / 24 + phase)[:, :, None]
    waves = waves + 0.05 * rng.normal(size=waves.shape)
    detector = create("cnn_ae", batch=64, epochs=10).fit(waves)
    quiet = np.zeros((1, 48, 1))
    steps = []
    for place in (20, 24, 28):
        spiked = quiet.copy()
        spiked[0, place, 0] = 4.0
        found = detector.score(spiked, explain="full").step
        assert found is not None
        steps.append(found[0])
    assert [int(x.argmax()) for x in steps] == [20, 24, 28]
    assert torch.allclose(steps[0][16:25], steps[1][20:29], rtol=1e-3)
    assert torch.allclose(steps[1][20:29], steps[2][24:33], rtol=1e-3)
