"""Inverse reinforcement learning: ``log Z`` by enumeration, gradients, rewards of a grammar."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detectors import Budget
from detectors.batch import NEW, PAD, WindowBatch, events
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.reward import (
    Behaviour,
    behaviour,
    cut,
    log_partition,
    make_up,
    policy_loss,
)
from detectors.nets.policy import BOUND, PolicyNet, RewardNet
from detectors.pup import Contest, RewardInference
from schemas.errors import DataError

ACTIONS, LENGTH = 3, 3


@cache
def learned() -> RewardInference:
    """A detector that others may read and not change."""
    detector = RewardInference(context=3, segment=5, learning_rate=5e-3)
    return detector.fit(sample("GRAMMAR").train, budget=Budget(steps=200))


class LargestTensor(TorchDispatchMode):
    """Watches how large a tensor is made at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


class Toy:
    """Three actions; a reward and a policy that depend on the last one."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tau = torch.randn(ACTIONS + 1, ACTIONS, generator=generator)
        self.log_pi = torch.randn(ACTIONS + 1, ACTIONS, generator=generator).log_softmax(dim=1)

    def sums(self, sequences: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards and log-chances ``[M]`` of ``[M, LENGTH]`` actions in ``0 .. 2``."""
        before = torch.nn.functional.pad(sequences, (1, 0), value=ACTIONS)[:, :-1]
        chance = self.log_pi[before, sequences].sum(dim=1)
        return self.tau[before, sequences].sum(dim=1), chance

    def draw(self, count: int) -> Tensor:
        start = torch.full((count, LENGTH, 1), ACTIONS)
        empty = torch.zeros(count, LENGTH, dtype=torch.int64)
        observed = Behaviour(start, empty, empty == 0)
        generator = torch.Generator().manual_seed(1)
        return make_up(observed, lambda state: self.log_pi[state[:, 0]], generator).actions

    def exact(self) -> float:
        every = torch.tensor(list(itertools.product(range(ACTIONS), repeat=LENGTH)))
        return float(self.sums(every)[0].logsumexp(dim=0))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_partition_equals_the_sum_over_all_sequences(seed: int) -> None:
    toy = Toy(seed)
    rewards, chances = toy.sums(toy.draw(100_000))
    assert float(log_partition(rewards, chances)) == pytest.approx(toy.exact(), abs=0.05)
    assert abs(float(rewards.mean()) - toy.exact()) > 1  # the mean reward is something else


def parts(rewards: Tensor, chances: Tensor, size: int) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(torch.split(rewards, size), torch.split(chances, size), strict=True)


def test_few_sequences_make_the_partition_too_small() -> None:
    toy = Toy(0)
    rewards, chances = toy.sums(toy.draw(100_000))
    few = [log_partition(*pair) for pair in parts(rewards, chances, 20)]
    many = [log_partition(*pair) for pair in parts(rewards, chances, 500)]
    low, near = (float(torch.stack(found).mean()) for found in (few, many))
    assert low < near < toy.exact() + 0.01
    assert RewardInference.Config().batch >= 256


def test_the_gradient_of_the_partition_has_weights_that_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(50, generator=generator).requires_grad_()
    chances = torch.randn(50, generator=generator).requires_grad_()
    log_partition(rewards, chances).backward()  # type: ignore[no-untyped-call]
    assert rewards.grad is not None
    torch.testing.assert_close(rewards.grad, (rewards - chances).detach().softmax(dim=0))
    assert chances.grad is None  # nothing flows into the policy


def test_the_gradient_of_the_policy_is_that_of_its_exact_loss() -> None:
    """One step, three actions: the expectation can be written out."""
    tau = torch.tensor([1.0, 0.0, -2.0])
    logits = torch.tensor([0.3, -0.5, 0.1], requires_grad=True)
    exact = (logits.softmax(0) * (logits.log_softmax(0) - tau)).sum()
    expected = torch.autograd.grad(exact, logits)[0]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(logits.detach().softmax(0), 200_000, True, generator=generator)
    chances = logits.log_softmax(0)[drawn].unsqueeze(1)
    rewards = tau[drawn].unsqueeze(1).requires_grad_()
    loss = policy_loss(rewards, chances, torch.ones(200_000, 1, dtype=torch.bool)).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected, atol=0.01, rtol=0.0)
    assert rewards.grad is None


def test_states_are_the_events_before_and_pieces_lie_inside() -> None:
    data = events([[2, 3, 4, 5, 6], [6, 5, 2, 2, 2]], [5, 2], vocab=7)
    whole = behaviour(data, 2)
    assert whole.states[0].tolist() == [[0, 0], [0, 2], [2, 3], [3, 4], [4, 5]]
    assert whole.actions[0].tolist() == [2, 3, 4, 5, 6]
    generator, starts = torch.Generator().manual_seed(0), set()
    for _ in range(50):
        piece = cut(whole, 3, generator)
        first = piece.actions[0].tolist()
        assert first == list(range(first[0], first[0] + 3))
        assert piece.states[0, 1].tolist() == [*piece.states[0, 0, 1:].tolist(), first[0]]
        assert piece.real.tolist() == [[True, True, True], [True, True, False]]
        assert piece.actions[1, :2].tolist() == [6, 5]
        starts.add(first[0])
    assert starts == {2, 3, 4}
    assert cut(whole, 9, generator).actions.shape == (2, 5)


def test_made_up_sequences_begin_where_observed_ones_do_and_follow_the_policy() -> None:
    torch.manual_seed(0)
    policy = PolicyNet(6, 2, 8, explore=0.3)
    observed = behaviour(events([[2, 3, 4]] * 4000, vocab=6), 2)
    made = make_up(observed, policy, torch.Generator().manual_seed(0))
    assert torch.equal(made.states[:, 0], observed.states[:, 0])
    assert torch.equal(made.states[:, 1, 1], made.actions[:, 0])
    shares = torch.bincount(made.actions[:, 0], minlength=6) / 4000
    expected = policy(observed.states[:1, 0])[0].exp().detach()
    torch.testing.assert_close(shares, expected, atol=0.03, rtol=0.0)
    assert float(expected[PAD]) == 0.0
    assert float(expected[NEW:].min()) > 0.3 / 5


def test_rewards_are_bounded() -> None:
    net = RewardNet(6, 2, 8, heads=3)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1e3)
    states, actions = torch.randint(6, (50, 2)), torch.randint(6, (50,))
    found = net(states, actions)
    assert found.shape == (50, 3)
    assert float(found.detach().abs().max()) <= BOUND


def support() -> Tensor:
    """``[22, 22]`` bool: the steps that GRAMMAR allows, as seen in training."""
    ids = sample("GRAMMAR").train.cat[:, :, 0]
    seen = torch.zeros(22, 22, dtype=torch.bool)
    seen[ids[:, :-1].flatten(), ids[:, 1:].flatten()] = True
    return seen


def rewards_of(data: WindowBatch) -> Tensor:
    return learned()._tau(learned()._prepare(data))


def test_allowed_steps_earn_more_than_forbidden_ones() -> None:
    data = sample("GRAMMAR").anomalous[:250]
    tau, ids = rewards_of(data).mean(dim=-1)[:, 1:], data.cat[:, :, 0]
    allowed = support()[ids[:, :-1], ids[:, 1:]]
    assert int((~allowed).sum()) >= 250
    assert ranking(tau[~allowed], tau[allowed]) > 0.95
    scores = learned().score(sample("GRAMMAR").normal).score
    assert ranking(scores, learned().score(sample("GRAMMAR").anomalous).score) > 0.8


def test_heads_disagree_more_on_what_was_never_seen() -> None:
    data = sample("GRAMMAR")
    odd = events(np.random.default_rng(0).integers(2, 22, size=(500, 30)), vocab=22)
    usual, unseen = (learned().score(part).uncertainty for part in (data.normal, odd))
    assert usual is not None
    assert unseen is not None
    assert float(unseen.mean()) > float(usual.mean())


def test_usual_behaviour_scores_around_zero() -> None:
    assert abs(float(learned().score(sample("GRAMMAR").normal).score.mean())) < 0.3


def test_a_new_event_is_against_the_interests() -> None:
    data = sample("GRAMMAR").normal
    cat = data.cat.clone()
    cat[:, 15] = NEW
    new = WindowBatch(data.num, cat, data.mask, data.vocab)
    assert bool((learned().score(new).score > learned().score(data).score).all())


def test_other_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="one category field, got 2"):
        RewardInference().fit(small("catrec"))
    with pytest.raises(DataError, match="one category field, got 1 and 2 numbers"):
        RewardInference().fit(small("sequence"))


@pytest.mark.parametrize("reward", [0.0, 0.5])
def test_lengths_compare(reward: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a constant reward and even chances, ``log Z`` is that of equally long pieces."""
    vocab, heads = 6, 3
    detector = RewardInference(context=2, heads=heads, hidden=4)
    detector.fit(events(np.full((4, 3), 2), vocab=vocab), budget=Budget(steps=1))

    def even(states: Tensor, actions: Tensor) -> Tensor:
        return torch.full(actions.shape, -math.log(vocab - 1))

    def constant(states: Tensor, actions: Tensor) -> Tensor:
        return torch.full((*actions.shape, heads), reward)

    monkeypatch.setattr(detector, "_policy", SimpleNamespace(chosen=even))
    monkeypatch.setattr(detector, "_reward", constant)
    real = torch.arange(4) < torch.tensor([1, 4, 2, 3]).repeat(16).unsqueeze(1)
    ids = torch.where(real, 2, PAD)
    piece = Behaviour(torch.full((64, 4, 2), 2), ids, real)
    lengths = real.sum(dim=1).float()
    log_z = (reward * lengths).logsumexp(dim=0) - math.log(64)
    policy = policy_loss(
        torch.full((64, 4), reward), torch.full((64, 4), -math.log(vocab - 1)), real
    )
    found = detector._loss(Contest(piece, piece, head=1))
    torch.testing.assert_close(found, log_z - reward * lengths + policy)


def test_rewards_are_those_of_all_outputs_without_computing_all() -> None:
    vocab, heads = 4000, 10
    net = RewardNet(vocab, 3, 16, heads)
    states, actions = torch.randint(vocab, (50, 7, 3)), torch.randint(vocab, (50, 7))
    every = net.body(states).unflatten(-1, (heads, vocab))
    raw = every.gather(-1, actions[..., None, None].expand(50, 7, heads, 1)).squeeze(-1)
    with LargestTensor() as largest:
        found = net(states, actions)
    torch.testing.assert_close(found, BOUND * torch.tanh(raw / BOUND))
    assert largest.numbers <= max(p.numel() for p in net.parameters())
    assert largest.numbers < 50 * 7 * vocab / 2


def test_mini_batches_are_never_the_short_rest_of_an_epoch() -> None:
    data = sample("GRAMMAR").train[:100]
    detector = RewardInference(batch=30, context=2, hidden=4, heads=2)
    detector.fit(data[:20], budget=Budget(steps=1))
    for count, expected in ((20, [20]), (90, [30, 30, 30]), (100, [30, 30, 30])):
        generator = torch.Generator().manual_seed(0)
        contests = detector._contests(data[:count], detector.config, generator)
        assert [len(contest.observed.actions) for contest in contests] == expected
