"""The recurrent ensemble: units by hand, a plain network as a special case, a vote on steps."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.nets.skip_rnn import SkipAutoencoder, SkipRnn
from detectors.rae_ens import RecurrentEnsemble

SMALL: dict[str, Any] = {"members": 5, "hidden": 8}


@cache
def learned() -> RecurrentEnsemble:
    """A detector of WAVES that others may read and not change."""
    detector = RecurrentEnsemble(members=5, learning_rate=1e-2)
    return detector.fit(sample("WAVES").train, budget=Budget(steps=60))


def plain(net: SkipRnn) -> SkipRnn:
    """Let every state depend on the one before it alone."""
    net.share[:] = torch.tensor([1.0, 0.0])
    return net


def of_torch(net: SkipRnn) -> nn.RNN:
    """The plain recurrent network of the first member's weights."""
    assert net.read.bias is not None
    inputs, hidden = net.read.weight.shape[1:]
    known = nn.RNN(inputs, hidden, batch_first=True)
    state = known.state_dict()
    state["weight_ih_l0"].copy_(net.read.weight[0].T)
    state["weight_hh_l0"].copy_(net.recur.weight[0].T)
    state["bias_ih_l0"].copy_(net.read.bias[0, 0])
    state["bias_hh_l0"].zero_()
    return known


@torch.no_grad()
def test_without_skips_it_is_a_plain_recurrent_network() -> None:
    torch.manual_seed(0)
    net, x = plain(SkipRnn(1, 4, 6, 9, 3)), torch.randn(5, 9, 4)
    known = of_torch(net)
    start = torch.randn(1, 5, 6)
    everything = torch.ones(5, 9, dtype=torch.bool)
    torch.testing.assert_close(net(x, everything, start)[0], known(x, start)[0])


@torch.no_grad()
def test_one_member_without_skips_is_a_plain_recurrent_autoencoder() -> None:
    torch.manual_seed(0)
    net, x = SkipAutoencoder(1, 4, 6, 9, 3, shared=False), torch.randn(5, 9, 4)
    encoder, decoder = of_torch(plain(net.encoder)), of_torch(plain(net.decoder))
    code = encoder(x)[1]
    states = decoder(code[0].unsqueeze(1).expand(-1, 9, -1), code)[0]
    assert net.head.bias is not None
    backwards = states @ net.head.weight[0] + net.head.bias[0]
    everything = torch.ones(5, 9, dtype=torch.bool)
    copies = net.decode(net.encode(x, everything), everything)
    torch.testing.assert_close(copies[0], backwards.flip(1))


@torch.no_grad()
def test_states_of_each_member_by_hand() -> None:
    torch.manual_seed(0)
    members, steps = 4, 7
    net, x = SkipRnn(members, 2, 3, steps, reach=4), torch.randn(6, steps, 2)
    assert len(set(net.skip.tolist())) > 1
    found = net(x, torch.ones(6, steps, dtype=torch.bool))
    assert net.read.bias is not None
    for m in range(members):
        states = [torch.zeros(6, 3)]
        for t in range(steps):
            new = torch.zeros(6, 3)
            back = t + 1 - int(net.skip[m])
            sources = (states[-1], states[back] if back > 0 else torch.zeros(6, 3))
            for half, source in enumerate(sources):
                i = m + half * members
                fresh = (
                    x[:, t] @ net.read.weight[i] + net.read.bias[i] + source @ net.recur.weight[i]
                )
                new = new + net.share[m, t, half] * fresh.tanh()
            states.append(new)
            torch.testing.assert_close(found[m, :, t], new)


def test_states_are_mixed_from_one_or_two_others() -> None:
    torch.manual_seed(0)
    net = SkipRnn(60, 2, 3, 50, reach=10)
    assert torch.equal(net.share.sum(dim=-1), torch.ones(60, 50))
    for pair in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]):
        share = (net.share == torch.tensor(pair)).all(dim=-1).float().mean()
        assert float(share) == pytest.approx(1 / 3, abs=0.05)
    assert set(net.skip.tolist()) == set(range(1, 11))


@torch.no_grad()
def test_padding_changes_no_copy_of_a_real_step() -> None:
    torch.manual_seed(0)
    net, x = SkipAutoencoder(3, 2, 4, 8, 5, shared=False), torch.randn(1, 8, 2)
    whole = torch.ones(1, 8, dtype=torch.bool)
    short = net.decode(net.encode(x[:, :5], whole[:, :5]), whole[:, :5])
    mask = torch.arange(8).unsqueeze(0) < 5
    padded = net.decode(net.encode(x * mask.unsqueeze(-1), mask), mask)
    torch.testing.assert_close(padded[:, :, :5], short)


@torch.no_grad()
def test_the_decoder_tells_the_last_step_first() -> None:
    torch.manual_seed(0)
    net = SkipAutoencoder(2, 2, 4, 6, 3, shared=False)
    codes = torch.randn(2, 1, 4)
    one = net.decode(codes, torch.arange(6).unsqueeze(0) < 1)
    six = net.decode(codes, torch.ones(1, 6, dtype=torch.bool))
    torch.testing.assert_close(one[:, :, 0], six[:, :, 5])


def test_only_the_shared_framework_has_one_code() -> None:
    data = small("series")
    codes: dict[str, Tensor] = {}
    for framework in ("independent", "shared"):
        detector = RecurrentEnsemble(framework=framework, **SMALL)
        detector.fit(data, budget=Budget(steps=5))
        codes[framework] = detector._net.encode(data.num, data.mask)
    assert codes["independent"].shape == (5, 48, 8)
    assert codes["shared"].shape == (1, 48, 8)


def test_the_loss_by_hand() -> None:
    """Errors of all members add up against one penalty; the sum is divided by their number."""
    data = small("series", windows=20)
    detectors = {
        framework: RecurrentEnsemble(framework=framework, sparsity=0.3, **SMALL)
        for framework in ("independent", "shared")
    }
    for framework, detector in detectors.items():
        windows = detector.fit(data, budget=Budget(steps=2))._prepare(data)
        codes = detector._net.encode(windows.num, windows.mask)
        copies = detector._net.decode(codes, windows.mask)
        errors = ((copies - windows.num).square() * windows.mask.unsqueeze(-1)).sum(dim=(0, 2, 3))
        penalty = 0.3 * codes[0].abs().sum(dim=1) if framework == "shared" else 0.0
        rows, real = detector._rows(windows), detector._real(windows)
        torch.testing.assert_close(detector._loss(rows, real), (errors + penalty) / 5)


def test_sparsity_makes_the_common_code_small() -> None:
    data, sizes = small("series", windows=200), []
    for sparsity in (0.0, 5.0):
        detector = RecurrentEnsemble(framework="shared", sparsity=sparsity, epochs=8, **SMALL)
        detector.fit(data)
        codes = detector._net.encode(detector._prepare(data).num, data.mask)
        sizes.append(float(codes.abs().mean()))
    assert sizes[1] < 0.5 * sizes[0]


def test_the_order_of_the_members_does_not_matter() -> None:
    data, detector = small("sequence"), RecurrentEnsemble(**SMALL)
    detector.fit(data, budget=Budget(steps=5))
    expected, shape = detector.score(data, explain="full"), detector.shape
    assert shape is not None
    order = torch.tensor([3, 0, 4, 2, 1])
    tensors = detector.tensors()
    for name, tensor in tensors.items():
        if name.startswith("net."):
            tensors[name] = (
                tensor[order] if len(tensor) == 5 else tensor[torch.cat([order, order + 5])]
            )
    other = RecurrentEnsemble(**SMALL)
    other.take_over(shape, tensors)
    found = other.score(data, explain="full")
    torch.testing.assert_close(found.score, expected.score)
    torch.testing.assert_close(found.step, expected.step)
    torch.testing.assert_close(found.feature, expected.feature)


def test_a_spiked_step_has_the_top_score() -> None:
    data = sample("WAVES").normal[:100]
    spiked = data.num.clone()
    steps = torch.arange(100) % 48
    spiked[torch.arange(100), steps, 2] += 4.0
    found = learned().score(spiked, explain="full").step
    assert found is not None
    assert float((found.argmax(dim=1) == steps).float().mean()) > 0.9


def test_anomalous_windows_score_above_normal_ones() -> None:
    data, detector = sample("WAVES"), learned()
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.8
