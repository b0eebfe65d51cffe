"""Inverse reinforcement learning: rewards that make observed behaviour better than a policy's own.

Behaviour is a sequence of states and actions; here a state is the last few events and an action the
next one, so that an action alone decides what the next state is. The likelihood of a sequence is
``exp(sum of rewards) / Z``, and ``Z`` is estimated from sequences that a policy has made up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.batch import PAD, WindowBatch
from detectors.device import beside

MOST = 10.0
"""Nats above the mean beyond which the weight of a made-up sequence counts no more; a single one
would otherwise be all that a mini-batch learns from."""


class Behaviour(NamedTuple):
    """``B`` sequences of ``L`` steps.

    Attributes
    ----------
    states
        ``[B, L, k]``: the ``k`` events before each step.
    actions
        ``[B, L]``: the event of each step.
    real
        ``[B, L]`` bool.
    """

    states: Tensor
    actions: Tensor
    real: Tensor


def behaviour(data: WindowBatch, context: int) -> Behaviour:
    """Read windows of one category field, from their first event on."""
    ids = data.cat[:, :, 0]
    before = torch.nn.functional.pad(ids, (context, 0), value=PAD)
    return Behaviour(before.unfold(1, context, 1)[:, :-1], ids, data.mask)


def cut(whole: Behaviour, length: int, generator: torch.Generator) -> Behaviour:
    """Cut a piece of up to ``length`` steps out of each sequence, anywhere in it."""
    steps = whole.real.sum(dim=1)
    draw = beside(torch.rand(len(steps), generator=generator), steps)
    start = (draw * ((steps - length).clamp(min=0) + 1)).long()
    length = min(length, whole.actions.shape[1])
    at = start.unsqueeze(1) + torch.arange(length, device=start.device)
    real = at < steps.unsqueeze(1)
    at = at.clamp(max=whole.actions.shape[1] - 1)
    states = whole.states.gather(1, at.unsqueeze(2).expand(-1, -1, whole.states.shape[2]))
    return Behaviour(states, whole.actions.gather(1, at), real)


def make_up(
    observed: Behaviour, log_policy: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Behaviour:
    """Let a policy go on from the first state of each sequence, for as many steps.

    Parameters
    ----------
    log_policy
        States ``[B, k]`` to the logarithm ``[B, V]`` of the chance of each action.
    """
    state = observed.states[:, 0]
    states, actions = [], []
    for _ in range(observed.actions.shape[1]):
        with torch.no_grad():
            chance = log_policy(state).exp().cumsum(dim=1)
        draw = beside(torch.rand((len(state), 1), generator=generator), state)
        action = (chance <= draw * chance[:, -1:]).sum(dim=1).clamp(max=chance.shape[1] - 1)
        states.append(state)
        actions.append(action)
        state = torch.cat([state[:, 1:], action.unsqueeze(1)], dim=1)
    return Behaviour(torch.stack(states, dim=1), torch.stack(actions, dim=1), observed.real)


def log_partition(rewards: Tensor, log_chances: Tensor) -> Tensor:
    """``log Z``, ``[]``, by importance sampling.

    ``Z`` is the sum of ``exp(reward)`` over all sequences, estimated by the mean of
    ``exp(reward) / chance``. Too few sequences make it too small.

    Parameters
    ----------
    rewards, log_chances
        ``[M]`` of sequences drawn from a policy: sum of the rewards, and logarithm of the chance of
        being drawn. No gradient flows into the latter.
    """
    weights = rewards - log_chances.detach()
    most = weights.detach().mean() + MOST
    return weights.minimum(most).logsumexp(dim=0) - math.log(len(weights))


def policy_loss(rewards: Tensor, log_chances: Tensor, real: Tensor) -> Tensor:
    """Loss ``[B]`` whose gradient lowers ``E[sum log pi(a|o) - reward(o, a)]`` over the policy.

    Score-function gradient: the logarithm of the chance of an action, times what it and later ones
    cost beyond what they cost on average at that step.

    Parameters
    ----------
    rewards, log_chances, real
        ``[B, L]`` of sequences drawn from the policy. No gradient flows into the rewards.
    """
    cost = ((log_chances - rewards) * real).detach()
    to_go = cost.flip(1).cumsum(dim=1).flip(1)
    mean = (to_go * real).sum(dim=0) / real.sum(dim=0).clamp(min=1)
    return ((to_go - mean) * log_chances * real).sum(dim=1)
