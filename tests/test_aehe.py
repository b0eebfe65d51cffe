"""AEHE: neighbours by hand, communities told apart by topology alone, numbers that count."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from detectors import Budget
from detectors.aehe import EventEmbedding
from detectors.batch import NEW, WindowBatch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.likelihood import Unigrams, exchange_numbers
from detectors.nets.topology import BUCKETS, LENGTH, count_neighbours, second_order
from schemas.errors import DataError


def with_bytes(data: WindowBatch, shift: int = 0) -> WindowBatch:
    """PATHS with two numbers: one that the community of the service decides, and noise."""
    generator = torch.Generator().manual_seed(len(data))
    kind = ((data.cat[:, :, 2] - 2) // 20 + shift) % 2
    noise = torch.randn((*data.mask.shape, 2), generator=generator)
    noise[:, :, 0] = 4.0 * kind - 2.0 + 0.5 * noise[:, :, 0]
    return replace(data, num=noise)


@cache
def learned(numbers: bool) -> EventEmbedding:
    """A detector that others may read and not change."""
    data = sample("PATHS").train
    return EventEmbedding(batch=256).fit(
        with_bytes(data) if numbers else data, budget=Budget(steps=200)
    )


def test_neighbours_by_hand() -> None:
    rows = torch.tensor([[2, 6], [2, 7], [3, 7]])
    found = count_neighbours(rows, 8)
    assert found[2].nonzero().flatten().tolist() == [6, 7]
    assert found[7].nonzero().flatten().tolist() == [2, 3]
    assert found.sum() == 6
    paths = second_order(found, torch.tensor([0, 4]))
    # from 2 by way of 6 and 7: back to 2 one and a half times, to 3 half a time
    expected = (torch.tensor([0.75, 0.25]) ** 0.5 * LENGTH).tolist()
    assert paths[2, [2, 3]].tolist() == pytest.approx(expected)
    assert paths[6, :-1].nonzero().flatten().tolist() == [6, 7]
    assert paths[:, -1].tolist() == pytest.approx([0, 0, 1, 0.63, 0, 0, 0.63, 1], abs=0.01)
    rows_in_use = paths[[2, 3, 6, 7], :-1].norm(dim=1)
    torch.testing.assert_close(rows_in_use, torch.full((4,), LENGTH))


def test_values_beyond_the_buckets_share_them() -> None:
    rows = torch.tensor([[2, BUCKETS + 7]])
    assert count_neighbours(rows, BUCKETS + 9)[2].nonzero().flatten().tolist() == [7]


def test_padding_and_new_values_have_empty_rows() -> None:
    rows = torch.tensor([[1, 4], [2, 5], [2, 6]])
    found = second_order(count_neighbours(rows, 8), torch.tensor([0, 3]))
    assert not found[[0, 1, 3, 4]].any()
    assert bool((found[[2, 5, 6]] > 0).any(dim=1).all())


@pytest.mark.parametrize("numbers", [False, True])
def test_mixed_communities_score_above_true_events(numbers: bool) -> None:
    """With numbers and, where there are none, by topology alone."""
    data, detector = sample("PATHS"), learned(numbers)
    normal, odd = data.normal, data.anomalous
    if numbers:
        normal, odd = with_bytes(normal), with_bytes(odd)
    assert ranking(detector.score(normal).score, detector.score(odd).score) > 0.95


def test_values_of_one_community_are_close_though_they_never_met() -> None:
    detector = learned(False)
    vectors = detector._net.encoder(detector._net.topology)
    users = torch.nn.functional.normalize(vectors[2:42].detach(), dim=1)
    likeness = users @ users.T
    inside = torch.cat([likeness[:10, :10].flatten(), likeness[20:30, 20:30].flatten()])
    assert float(inside.mean()) > float(likeness[:10, 20:30].mean()) + 0.1


def test_numbers_that_the_service_does_not_send_are_anomalous() -> None:
    data, detector = sample("PATHS").normal, learned(True)
    usual, other = (detector.score(with_bytes(data, shift)) for shift in (0, 1))
    assert ranking(usual.score, other.score) > 0.9


def test_the_number_that_is_off_gets_the_share_of_the_numbers() -> None:
    data = with_bytes(sample("PATHS").normal, 1)
    feature = learned(True).score(data, explain="full").feature
    assert feature is not None
    assert feature.shape == (500, 1, 5)
    shares = feature.mean(dim=(0, 1))
    assert float(shares[0]) > float(shares[1])


def test_weights_stay_above_zero() -> None:
    assert bool((learned(True)._net.weight >= 0).all())
    assert learned(True)._net.weight.shape == (6,)
    assert learned(False)._net.weight.shape == (3,)


def test_the_replaced_node_is_of_the_same_type() -> None:
    detector = learned(False)
    rows = detector._values.rows(sample("PATHS").normal.cat[:, 0])
    unigrams = Unigrams.fit(detector._counts, detector._values.start)
    made = unigrams.imitate(rows, 20, torch.Generator().manual_seed(0)).noise
    for field, start in enumerate((0, 42, 84)):
        own: Tensor = made[:, :, field]
        assert int(own.min()) > start
        assert int(own.max()) < start + 42


def test_numbers_are_exchanged_as_often_as_a_field_is_filled_anew() -> None:
    detector = learned(True)
    data = with_bytes(sample("PATHS").train)
    rows, numbers = detector._values.rows(data.cat[:, 0]), data.num[:, 0]
    unigrams = Unigrams.fit(detector._counts, detector._values.start)
    generator = torch.Generator().manual_seed(0)
    contrast = unigrams.imitate(rows, 4, generator)
    found = exchange_numbers(contrast, numbers, unigrams, generator)
    hit = (found.noise != numbers.unsqueeze(1)).any(dim=2).any(dim=1)
    assert float(hit.float().mean()) == pytest.approx(0.25, abs=0.03)
    same = found.contrast.noise == rows.unsqueeze(1)
    assert bool(same[hit].all())
    assert torch.equal(found.contrast.noise[~hit], contrast.noise[~hit])
    assert torch.equal(found.contrast.log_q[hit], found.contrast.log_q_noise[hit, 0])
    bare = exchange_numbers(contrast, numbers[:, :0], unigrams, generator)
    assert bare.contrast is contrast


def test_new_values_score_higher() -> None:
    data = sample("PATHS").normal
    for field in range(3):
        cat = data.cat.clone()
        cat[:, :, field] = NEW
        new = learned(False).score(replace(data, cat=cat)).score
        assert float((new > learned(False).score(data).score).float().mean()) > 0.95


def test_a_value_seen_in_an_update_finds_its_place_by_its_company() -> None:
    data = sample("PATHS").train
    odd = (data.cat[:, 0] == 4).any(dim=1)
    detector = EventEmbedding().fit(data[~odd], budget=Budget(steps=150))
    before = detector.score(data[odd]).score
    detector.partial_fit(data[odd], budget=Budget(steps=1))
    assert float((detector.score(data[odd]).score < before).float().mean()) > 0.9


def test_rows_are_rebuilt_with_training() -> None:
    detector = learned(False)
    raw = EventEmbedding().fit(sample("PATHS").train, budget=Budget(steps=1))
    seen = (detector._counts > 0).nonzero().squeeze(1)
    errors = [float(d._net.rebuilding(seen, 10.0).mean().detach()) for d in (raw, detector)]
    assert errors[1] < 0.5 * errors[0]


def test_few_rows_are_encoded_by_themselves_as_in_the_whole_table() -> None:
    net = EventEmbedding().fit(sample("PATHS").train, budget=Budget(steps=1))._net
    net.table = None
    few = torch.tensor([[2, 44, 86], [3, 44, 86]])
    many = few.repeat(len(net.topology), 1)
    for whole, part in (
        (net.vectors(many, None), net.vectors(few, None)),
        (net.rebuilding(many, 10.0), net.rebuilding(few, 10.0)),
    ):
        torch.testing.assert_close(whole[:2], part)
    gap = net.topology[44] - net.decoder(net.encoder(net.topology[44]))
    by_hand = (gap * (1.0 + 9.0 * (net.topology[44] > 0))).square().mean()
    torch.testing.assert_close(net.rebuilding(few, 10.0)[0, 1], by_hand)


def test_neighbours_forget_beyond_the_horizon() -> None:
    data = small("catrec", windows=200)
    detector = EventEmbedding(horizon=100).fit(data, budget=Budget(steps=1))
    detector.partial_fit(data[:50], budget=Budget(steps=1))
    assert float(detector._neighbours.sum()) == pytest.approx(2 * 150)


def test_a_single_field_is_refused() -> None:
    data = small("mixed")
    one = replace(data, cat=data.cat[:, :, :1], vocab=data.vocab[:1])
    with pytest.raises(DataError, match=r"aehe: .* needs at least 2, got 1"):
        EventEmbedding().fit(one)
