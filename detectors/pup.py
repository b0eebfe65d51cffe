"""PUP: learns what an agent is after, and finds anomalous what is against its interests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import NEW, WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.loops.batches import evaluate, minibatches, split
from detectors.loops.prediction import predict_steps
from detectors.loops.reward import (
    Behaviour,
    behaviour,
    cut,
    log_partition,
    make_up,
    policy_loss,
)
from detectors.loops.stage import Count, Positive, Run, Stage, Training, gentle
from detectors.loops.training import last_is_best, train
from detectors.nets.heads import new_value_surcharge, per_step_mean
from detectors.nets.modules import load_module, module_state
from detectors.nets.policy import PolicyNet, RewardNet
from detectors.scores import Explain, Scores
from schemas.errors import DataError


class Contest(NamedTuple):
    """A mini-batch: what was observed, what the policy made up, and the head that learns."""

    observed: Behaviour
    made_up: Behaviour
    head: int


class RewardInference(Detector):
    """Negative reward ``-tau(o, a)`` of the actions of an agent, mean over steps and heads.

    A window of events is behaviour: in the state ``o``, the ``context`` events before, the agent
    took the action ``a``, the next event. It is taken to seek a reward: a sequence has the
    likelihood ``exp(sum tau(o, a)) / Z``, and the weights of ``tau`` a normal prior. The reward is
    learned by maximising the posterior; ``Z`` is estimated from sequences that a policy makes up,
    which goes on from states that were observed. The policy starts as a copy of the agent and is
    then trained for the reward and for its own entropy, in turn with the reward. Each mini-batch
    teaches one of several ``heads``, drawn at random; their spread says how sure a score is.

    Shapes
    ------
    Windows ``[B, T, 1]`` of one category field and any ``T``; about ``H (k E + H + heads)``
    multiply-adds a step with embeddings of width ``E``. Nothing is drawn for a score.

    Notes
    -----
    Rewards are known up to a constant: those of held-out windows have the mean 0 in scores. They
    are bounded to keep single actions from deciding a sequence. A new value pays a surcharge.

    Explanations give each step by how much its reward lies below the usual one: what was not in the
    agent's interest.

    Adaptations: an event sequence stands for states and actions; ``log Z`` of the survey's
    equation 39 is printed without exponential and without weights, and is computed with both, on
    pieces of ``segment`` steps, with bounded weights and relative to chance, so that pieces of
    different length compare; both networks take their steps together; the policy is kept from
    certainty; the policy's gradient takes the mean cost of a step as its baseline.

    References
    ----------
    Oh and Iyengar 2019, *Sequential anomaly detection using inverse reinforcement learning*; Finn
    et al. 2016, *Guided cost learning*. Survey: Pang et al. 2020, section 6.2, equations 38-39.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        context
            Events ``k`` that make a state.
        hidden, heads
            Width ``H`` of both networks, and number of opinions on the reward.
        segment
            Steps of the pieces that are compared; the longer, the more the weights of made-up
            pieces differ, and the less a mini-batch says about ``Z``.
        explore
            Share of the policy's actions that are drawn evenly from all.
        pretrain_epochs
            Epochs in which the policy copies the agent.
        weight_decay
            Of the reward: one over the variance of the prior, spread over the windows.
        """

        context: Count = 5
        hidden: Count = 64
        heads: Count = 10
        segment: Count = 5
        explore: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.1
        pretrain_epochs: Count = 10
        steps_per_epoch: Count = 50
        learning_rate: Positive = 3e-3
        weight_decay: Annotated[float, msgspec.Meta(ge=0.0)] = 1e-4

    caps = Capabilities(
        name="pup",
        section="6.2",
        supervision="unsupervised",
        kinds=("events",),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        cost="small",
        loop="likelihood",
        sources=("GRAMMAR",),
    )
    chunk = 2048

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        if data.fields != 1 or data.features:
            msg = (
                f"{self.caps.name}: learns from sequences of one category field, got {data.fields} "
                f"and {data.features} numbers; leave one field, or choose another detector"
            )
            raise DataError(msg)
        self._build()
        self._surcharge = new_value_surcharge(data)
        run = Run(self.seed, budget, self.report)
        settings = msgspec.structs.replace(self.config, epochs=self.config.pretrain_epochs)
        # a third of a budget, lest nothing be left for the reward
        stage = Stage(self._policy, settings, run, share=1 / 3)
        predict_steps(stage, *split(data), self._copying_loss)
        self._learn(data, self.config, run)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._learn(data, gentle(self.config), Run.of_update(self.seed, budget, self.report))

    def _copying_loss(self, batch: WindowBatch) -> Tensor:
        seen = behaviour(batch, self.config.context)
        actions = seen.actions.clamp(min=NEW)  # padding has no chance, not even a small one
        return per_step_mean(-self._policy.chosen(seen.states, actions), seen.real)

    def _learn(self, data: WindowBatch, settings: Training, run: Run) -> None:
        early, late = split(data)
        groups: list[dict[str, object]] = [
            {"params": list(self._reward.parameters())},
            {"params": list(self._policy.parameters()), "weight_decay": 0.0},
        ]
        stage = Stage(nn.ModuleList([self._reward, self._policy]), settings, run, groups=groups)
        # the two play against each other: no single loss says which weights are the best
        train(
            stage,
            lambda generator: self._contests(early, settings, generator),
            self._loss,
            validate=last_is_best(),
        )
        rewards = evaluate(lambda part: self._tau(part).mean(dim=-1)[part.mask], late, 64)
        self._usual = rewards.mean() if len(rewards) else rewards.sum()

    def _contests(
        self, data: WindowBatch, settings: Training, generator: torch.Generator
    ) -> Iterator[Contest]:
        config = self.config
        for batch in minibatches(data, settings, generator):
            if len(batch) < min(settings.batch, len(data)):
                continue  # the rest of an epoch is too little to estimate Z by
            observed = cut(behaviour(batch, config.context), config.segment, generator)
            head = int(torch.randint(config.heads, (), generator=generator))
            yield Contest(observed, make_up(observed, self._policy, generator), head)

    def _loss(self, contest: Contest) -> Tensor:
        observed, made_up, head = contest
        evenly = math.log(self._fitted().vocab[0] - 1)
        actions = observed.actions.clamp(min=NEW)
        seen = self._reward(observed.states, actions)[..., head]
        heads = self._reward(made_up.states, made_up.actions)
        chances = self._policy.chosen(made_up.states, made_up.actions)
        # chances in relation to even ones, or long pieces would outweigh short ones
        log_z = log_partition(
            (heads[..., head] * made_up.real).sum(dim=1),
            ((chances + evenly) * made_up.real).sum(dim=1),
        )
        reward_loss: Tensor = log_z - (seen * observed.real).sum(dim=1)
        return reward_loss + policy_loss(heads.mean(dim=-1), chances, made_up.real)

    # -- scoring ----------------------------------------------------------------------------

    def _tau(self, data: WindowBatch) -> Tensor:
        """``[B, T, heads]``."""
        seen = behaviour(data, self.config.context)
        rewards: Tensor = self._reward(seen.states, seen.actions)
        return rewards

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        tau = self._tau(data)
        lacking = self._usual - tau.mean(dim=-1)
        surcharge = (data.cat[:, :, 0] == NEW) * self._surcharge
        score = per_step_mean(lacking + surcharge, data.mask)
        spread = per_step_mean(tau.std(dim=-1, correction=0), data.mask)
        if explain == "none":
            return Scores(score, uncertainty=spread)
        steps = (lacking.clamp(min=0) + surcharge) * data.mask
        return Scores(score, steps, steps.unsqueeze(-1).clone(), uncertainty=spread)

    # -- files ------------------------------------------------------------------------------

    def _build(self) -> None:
        config, vocab = self.config, self._fitted().vocab[0]
        self._reward = RewardNet(vocab, config.context, config.hidden, config.heads)
        self._policy = PolicyNet(vocab, config.context, config.hidden, config.explore)
        self._reward.to(self.device)
        self._policy.to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **module_state(self._reward, "reward."),
            **module_state(self._policy, "policy."),
            "surcharge": self._surcharge,
            "usual": self._usual,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._surcharge, self._usual = state["surcharge"], state["usual"]
        self._build()
        load_module(self._reward, state, "reward.")
        load_module(self._policy, state, "policy.")
