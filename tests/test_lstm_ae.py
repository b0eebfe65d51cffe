"""The LSTM autoencoder, and the statistics that turn errors into scores of steps and windows."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from detectors import Budget, WindowBatch, events
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.moments import Moments
from detectors.loops.pooling import Pooling
from detectors.lstm_ae import LstmAutoencoder, LstmAutoencoderNet
from detectors.nets.heads import Guess, WindowHead, window_loss
from detectors.nets.recurrent import reverse_real


@cache
def learned() -> LstmAutoencoder:
    """A detector of WAVES that others may read and not change."""
    detector = LstmAutoencoder(hidden=32, learning_rate=1e-2, batch=64)
    return detector.fit(sample("WAVES").train, budget=Budget(steps=160))


def reordered(data: WindowBatch, order: torch.Tensor) -> WindowBatch:
    return replace(data, num=data.num[:, order])


def test_reversed_and_shuffled_windows_score_higher() -> None:
    data, detector = sample("WAVES").normal[:200], learned()
    normal = detector.score(data).score
    shuffled = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    for order in (torch.arange(48).flip(0), shuffled):
        assert ranking(normal, detector.score(reordered(data, order)).score) > 0.9


def test_the_decoder_tells_the_last_step_first() -> None:
    torch.manual_seed(0)
    data, net = small("series"), LstmAutoencoderNet(4, (), 8).eval()
    told = net(data).num
    code = net.encoder(data.num, data.mask)
    for row, steps in enumerate(data.lengths.tolist()):
        unrolled = net.head(net.decoder(code[row : row + 1], steps)).num[0]
        torch.testing.assert_close(told[row, :steps], unrolled.flip(0))


@torch.no_grad()
def test_a_window_is_told_from_its_code_alone() -> None:
    torch.manual_seed(0)
    data, net = small("series"), LstmAutoencoderNet(4, (), 8).eval()
    whole = data[data.lengths == data.steps]
    assert float(net(whole).num.std(dim=0).min()) > 0
    for name, weight in net.encoder.named_parameters():
        if "weight_ih" in name:
            weight.zero_()  # nothing that is read reaches the code any more
    blind = net(whole).num
    torch.testing.assert_close(blind, blind[:1].expand_as(blind))


def test_reversing_leaves_padding_on_the_right() -> None:
    steps = torch.tensor([[1.0, 2, 3], [1, 2, 0]]).unsqueeze(-1)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    turned = reverse_real(steps, mask).squeeze(-1)
    assert turned[0].tolist() == [3, 2, 1]
    assert turned[1, :2].tolist() == [2, 1]


def test_the_reconstruction_is_given_in_units_of_the_input() -> None:
    data = small("series")
    large = replace(data, num=(100 * data.num + 7).masked_fill(~data.mask.unsqueeze(2), 0.0))
    told = []
    for windows in (data, large):
        detector = LstmAutoencoder(hidden=4).fit(windows, budget=Budget(steps=5))
        expected = detector.score(windows, explain="full").expected
        assert expected is not None
        told.append(expected[data.mask])
    torch.testing.assert_close(100 * told[0] + 7, told[1], rtol=1e-2, atol=0.1)


def test_a_uniform_guess_of_a_category_costs_one() -> None:
    data = small("sequence")
    guess = Guess(data.num + 2.0, (torch.zeros(len(data), 6, 9),), torch.zeros(1))
    torch.testing.assert_close(window_loss(guess, data), torch.full((len(data),), 2 * 4.0 + 1.0))


def test_a_new_value_costs_what_its_rarity_says() -> None:
    head = WindowHead(4, 0, (9,))
    head.learn_novelty(events([[2] * 10] * 99 + [[3, 4, *[2] * 8]], vocab=9))
    rarer_than_shown = 0.01 * 1001 / 3  # two of a thousand ids occur once
    assert float(head.surcharge) == pytest.approx(math.log(9) + math.log(rarer_than_shown))


def test_without_correlation_the_distance_is_the_squared_error() -> None:
    unit = torch.eye(3, dtype=torch.float64)
    moments = Moments.make(torch.zeros(3), unit, torch.tensor(100.0))
    errors = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(moments.distance(errors), errors.square().sum(dim=1))
    torch.testing.assert_close(moments.shares(errors), errors.square())


def test_the_share_of_a_feature_is_what_leaving_it_out_saves() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 3, generator=generator)
    moments = Moments.fit(torch.randn(500, 3, generator=generator) @ mix)
    errors = torch.randn(20, 3, generator=generator)
    for feature in range(3):
        rest = [f for f in range(3) if f != feature]
        covariance = moments.covariance[rest][:, rest]
        fewer = Moments.make(moments.mean[rest], covariance, moments.count)
        saved = moments.distance(errors) - fewer.distance(errors[:, rest])
        torch.testing.assert_close(saved, moments.shares(errors)[:, feature], atol=1e-3, rtol=1e-3)


def test_updated_moments_are_those_of_all_errors() -> None:
    errors = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)
    errors[3000:] += 2.0
    blend = Moments.fit(errors[:3000]).updated(Moments.fit(errors[3000:]))
    whole = Moments.fit(errors)
    torch.testing.assert_close(blend.mean, whole.mean)
    torch.testing.assert_close(blend.covariance, whole.covariance, atol=0.01, rtol=0.01)


def test_both_ways_of_pooling_find_what_the_other_hides() -> None:
    mask, usual = torch.ones(3, 4, dtype=torch.bool), torch.tensor([2.0, 4.0])
    mask[2, 1:] = False
    steps = torch.tensor([[3.0, 3, 3, 3], [0, 0, 8, 0], [3, 0, 0, 0]])
    assert Pooling("mean", usual)(steps, mask).tolist() == [3.0, 2.0, 3.0]
    assert Pooling("max", usual)(steps, mask).tolist() == [3.0, 8.0, 3.0]
    assert Pooling("both", usual)(steps, mask).tolist() == [1.5, 2.0, 1.5]
