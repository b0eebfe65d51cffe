"""The machinery under every training loop: optimisers, guards and limits.

A loop hands over a network, a way to draw an epoch of mini-batches and a loss per instance, or
several losses, each with the part of the network that it may change. Training then stops at the
first of: the last epoch, no progress on held-out windows, the budget. The weights that are kept
are the best ones seen, not the last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Generic

import torch
from torch import Tensor, nn

from detectors.loops.averaging import Average
from detectors.loops.batches import trimmed_mean
from detectors.loops.stage import Player, Stage, T
from schemas.errors import DetectorError

RETRIES = 3
"""Restarts from the last good weights, each at half the learning rate, before training gives up."""

PROGRESS = 1e-3
"""Relative gain that counts as progress; below it a long tail of tiny gains would never stop."""

LATE = 0.75
"""Share of the epochs after which the learning rate decays even while there is progress."""


def train(
    stage: Stage,
    draw: Callable[[torch.Generator], Iterable[T]],
    loss: Callable[[T], Tensor],
    *,
    validate: Callable[[], float] | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train ``stage.model``; writes to the report of the run.

    Parameters
    ----------
    draw
        Called once an epoch: its mini-batches.
    loss
        ``[B]`` losses of the instances of a mini-batch, with gradients.
    validate
        Called after each epoch in evaluation mode: what the best weights are chosen by. Without
        it there is no early stop and the training loss chooses.
    after_epoch
        Called after each epoch with its number, counted from 1.

    Raises
    ------
    DetectorError
        If the loss keeps leaving the finite numbers at ever smaller learning rates.
    """
    play(stage, draw, [Player([stage.model], loss)], validate=validate, after_epoch=after_epoch)


def play(
    stage: Stage,
    draw: Callable[[torch.Generator], Iterable[T]],
    players: Sequence[Player[T]],
    *,
    validate: Callable[[], float] | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train as :func:`train` does, with several players that move in turns on each mini-batch.

    The loss of an epoch is the sum of those of the players, each averaged over its moves. A step
    of the budget is one mini-batch, whoever moves on it.
    """
    model, report = stage.model, stage.run.report
    model.requires_grad_(True)
    course = _Course(stage, players)
    try:
        while course.goes_on():
            model.train()
            mean = course.epoch(draw)
            model.eval()
            with course.average.shown():
                value = validate() if validate is not None and math.isfinite(mean) else mean
            if not math.isfinite(value):
                course.step_back()
                continue
            report.losses.append(mean)
            course.note(value, stops_early=validate is not None)
            if after_epoch is not None:
                after_epoch(course.done)
    finally:
        course.keep_best()
        model.zero_grad()
        model.eval().requires_grad_(False)


def last_is_best() -> Callable[[], float]:
    """Return a validation for :func:`train` that keeps the last weights and never stops early."""
    done = itertools.count()
    return lambda: -float(next(done))


def warm_up(
    stage: Stage,
    draw: Callable[[torch.Generator], Iterable[T]],
    loss: Callable[[T], Tensor],
    tighten: Callable[[float], None],
) -> None:
    """Train while the loss tightens, and keep the last weights.

    Losses at different warmth do not compare, so none of them can choose the best weights. What is
    normal is known afterwards: later stages of the run trim from their first epoch on.

    Parameters
    ----------
    tighten
        Called with the warmth that the loss is to have: from 0 to 1 over the epochs of the stage,
        and 1 when it ends.
    """
    epochs = stage.settings.epochs
    tighten(0.0)
    try:
        train(
            stage,
            draw,
            loss,
            validate=last_is_best(),
            after_epoch=lambda epoch: tighten(epoch / epochs),
        )
    finally:
        tighten(1.0)
    stage.run.trained = True


class _Course(Generic[T]):
    """State of one stage of training between epochs."""

    def __init__(self, stage: Stage, players: Sequence[Player[T]]) -> None:
        self.stage = stage
        self.players = players
        self.generator = torch.Generator().manual_seed(stage.run.seed)
        self.rate = stage.settings.learning_rate
        self.done = 0
        self.retries = 0
        self.stale = 0
        self.late = False
        self.best = math.inf
        self.average = Average(stage.model, stage.average)
        self.best_weights = self.last_weights = self.first_weights = self.average.weights()
        self.optimisers = [self._new_optimiser(player) for player in players]

    def _new_optimiser(self, player: Player[T]) -> torch.optim.Optimizer:
        stage, settings = self.stage, self.stage.settings
        groups = stage.groups or [{"params": player.parameters()}]
        rate, decay = self.rate * player.rate, settings.weight_decay
        if settings.optimiser == "adam":
            return torch.optim.Adam(groups, lr=rate, betas=stage.betas, weight_decay=decay)
        return torch.optim.RMSprop(groups, lr=rate, alpha=0.9, eps=1e-7, weight_decay=decay)

    def goes_on(self) -> bool:
        """Whether there is another epoch; says why not in the report."""
        stage, report = self.stage, self.stage.run.report
        if self.done >= stage.settings.epochs:
            report.stopped = "epochs"
        elif stage.run.spent(stage.share):
            report.stopped = "budget"
        elif self.stale >= stage.settings.patience:
            report.stopped = "early stop"
        else:
            return True
        return False

    def epoch(self, draw: Callable[[torch.Generator], Iterable[T]]) -> float:
        """One pass; returns the mean loss, or NaN if one was not finite.

        Losses stay on the device until the end: to look at each would make the host wait for it.
        """
        stage, settings = self.stage, self.stage.settings
        self.late = self.late or self.done >= LATE * settings.epochs
        for player, optimiser in zip(self.players, self.optimisers, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = self.rate * player.rate * (settings.decay if self.late else 1.0)
        # the first epoch of a fit still has to find out what is unlike the rest
        trim = settings.trim if self.done > 0 or stage.run.trained else 0.0
        losses: list[list[Tensor]] = [[] for _ in self.players]
        trimmed = 0
        for batch in draw(self.generator):
            trimmed += self._round(batch, trim, losses)
            self.average.follow()
            stage.run.steps += 1
            if stage.run.spent(stage.share):
                break
        stage.run.report.trimmed = trimmed
        means = [torch.stack(moves).double().mean() for moves in losses if moves]
        return torch.stack(means).sum().item() if means else math.nan

    def _round(self, batch: T, trim: float, losses: list[list[Tensor]]) -> int:
        """Let every player move whose turn it is; note the losses, say how many the last trimmed.

        Weights that a loss beyond the finite numbers has spoilt are not kept.
        """
        stage, out = self.stage, 0
        for i, (player, optimiser) in enumerate(zip(self.players, self.optimisers, strict=True)):
            if stage.run.steps % player.every:
                continue
            if list(player.modules) != [stage.model]:
                stage.model.requires_grad_(False)
                for module in player.modules:
                    module.requires_grad_(True)
            loss, out = trimmed_mean(player.loss(batch), trim)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(player.parameters(), stage.settings.clip)
            optimiser.step()
            losses[i].append(loss.detach())
        return out

    def note(self, value: float, *, stops_early: bool) -> None:
        """Take an epoch that ended well."""
        self.done += 1
        self.last_weights = self.average.current()
        self.stale = self.stale + 1 if stops_early else 0
        if not value >= self.best - PROGRESS * abs(self.best):  # the first best is infinite
            self.stale = 0
        if value < self.best:
            self.best, self.best_weights = value, self.average.weights()
        if self.stale >= self.stage.settings.patience and not self.late:
            self.late, self.stale = True, 0
            self.average.restart(self.best_weights)
        for i, player in enumerate(self.players):
            if player.starts_over is not None and player.starts_over():
                self._start_over(i)

    def _start_over(self, i: int) -> None:
        """Put the first weights of a player back, and forget the course of its optimiser."""
        mine = {id(p) for p in self.players[i].parameters()}
        names = [n for n, p in self.stage.model.named_parameters() if id(p) in mine]
        self.average.reset({name: self.first_weights[name] for name in names})
        self.optimisers[i] = self._new_optimiser(self.players[i])

    def step_back(self) -> None:
        """Return to the last good weights and go on at half the rate."""
        self.retries += 1
        if self.retries > RETRIES:
            msg = (
                f"training diverged {self.retries} times, last at learning rate {self.rate:g}; "
                "set a smaller learning_rate or look for extreme values in the windows"
            )
            raise DetectorError(msg)
        self.average.restart(self.last_weights)
        self.rate /= 2
        self.optimisers = [self._new_optimiser(player) for player in self.players]

    def keep_best(self) -> None:
        """Put the best weights back."""
        self.stage.model.load_state_dict(self.best_weights)
