"""The machinery under every training loop: mini-batches, optimisers, guards and limits.

A loop hands over a network, a way to draw an epoch of mini-batches and a loss per instance, or
several losses, each with the part of the network that it may change. Training then stops at the
first of: the last epoch, no progress on held-out windows, the budget. The weights that are kept
are the best ones seen, not the last.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.detector import Budget, FitReport
from detectors.loops.averaging import Average
from detectors.nets.embedding import show_new
from schemas.errors import DetectorError

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]

RETRIES = 3
"""Restarts from the last good weights, each at half the learning rate, before training gives up."""

PROGRESS = 1e-3
"""Relative gain that counts as progress; below it a long tail of tiny gains would never stop."""

LATE = 0.75
"""Share of the epochs after which the learning rate decays even while there is progress."""

HELD_OUT = 0.1
"""Share of the windows, the latest ones, that training never sees."""

T = TypeVar("T")


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of every trained detector.

    Attributes
    ----------
    epochs, steps_per_epoch, batch
        Upper limits on the work: an epoch is one pass over the windows in random order, or its
        first ``steps_per_epoch`` mini-batches of ``batch`` windows.
    learning_rate, decay
        Step size, and the factor on it once progress ends, at the latest for the last quarter of
        the epochs.
    weight_decay
        Pull of the weights towards zero.
    clip
        Largest norm of a gradient; longer ones are shortened to it.
    patience
        Epochs without progress on the held-out windows before the rate decays and, the next time,
        training stops.
    trim
        Share of each mini-batch, that with the largest losses, which teaches nothing: unlabelled
        training data holds anomalies.
    optimiser
        ``adam``, or ``rmsprop`` with decay 0.9.
    """

    epochs: Count = 30
    steps_per_epoch: Count = 200
    batch: Count = 256
    learning_rate: Positive = 1e-3
    decay: Positive = 0.1
    weight_decay: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    clip: Positive = 1.0
    patience: Count = 3
    trim: Share = 0.0
    optimiser: Literal["adam", "rmsprop"] = "adam"


SettingsT = TypeVar("SettingsT", bound=Training)


def gentle(settings: SettingsT) -> SettingsT:
    """Turn the settings of a fit into those of an update: few epochs at a tenth of the rate."""
    return msgspec.structs.replace(
        settings,
        epochs=max(1, min(5, settings.epochs // 5)),
        learning_rate=settings.learning_rate * 0.1,
        decay=1.0,
    )


@dataclass
class Run:
    """One fit: its seed, its budget and what it has used of it, over all stages of training.

    Attributes
    ----------
    seed
        Order of mini-batches and all other draws follow from it.
    budget, report
        Limits of the fit, and where its course is written down.
    steps
        Optimiser steps done.
    """

    seed: int
    budget: Budget
    report: FitReport
    clock: Callable[[], float] = time.monotonic
    steps: int = 0
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.report.losses, self.report.trimmed = [], 0

    def spent(self, share: float = 1.0) -> bool:
        """Whether ``share`` of the budget is used up."""
        seconds, steps = self.budget.seconds, self.budget.steps
        late = seconds is not None and self.clock() - self.started >= share * seconds
        return late or (steps is not None and self.steps >= share * steps)


@dataclass(frozen=True)
class Stage:
    """What one stage of training works with.

    Attributes
    ----------
    model
        Network whose parameters learn; it ends in evaluation mode and without gradients.
    settings, run
        How, and within which limits.
    share
        Share of the run's budget that may be used up when the stage ends.
    groups
        Parameter groups of the optimiser where they differ; all parameters alike if left out.
    betas
        Memory of Adam.
    average
        Decay of a running average of the weights, which then is what is validated and kept; 0
        for the weights themselves.
    """

    model: nn.Module
    settings: Training
    run: Run
    share: float = 1.0
    groups: list[dict[str, object]] | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    average: float = 0.0


@dataclass(frozen=True)
class Player(Generic[T]):
    """One of several sides that move in turns.

    Attributes
    ----------
    modules
        Parts of the model that the player may change. While ``loss`` is computed, only their
        parameters have gradients.
    loss
        ``[B]`` losses of the instances of a mini-batch, with gradients.
    rate
        Factor on the learning rate.
    every
        Mini-batches from one move to the next.
    starts_over
        Asked after each epoch: whether to go back to the weights of the start.
    """

    modules: Sequence[nn.Module]
    loss: Callable[[T], Tensor]
    rate: float = 1.0
    every: int = 1
    starts_over: Callable[[], bool] | None = None

    def parameters(self) -> list[nn.Parameter]:
        """All that the player may change."""
        return [p for module in self.modules for p in module.parameters()]


def split(data: WindowBatch) -> tuple[WindowBatch, WindowBatch]:
    """Cut off the latest tenth for early stopping and statistics; a lone window serves as both."""
    if len(data) == 1:
        return data, data
    cut = len(data) - max(1, round(HELD_OUT * len(data)))
    return data[:cut], data[cut:]


def minibatches(
    data: WindowBatch, settings: Training, generator: torch.Generator, *, new_ids: bool = True
) -> Iterator[WindowBatch]:
    """One epoch in random order; with ``new_ids`` a small share of the ids is shown as new."""
    order = torch.randperm(len(data), generator=generator)
    order = order[: settings.batch * settings.steps_per_epoch]
    order = order.to(data.mask.device)
    for start in range(0, len(order), settings.batch):
        batch = data[order[start : start + settings.batch]]
        yield show_new(batch, generator) if new_ids else batch


def trimmed_mean(losses: Tensor, share: float) -> tuple[Tensor, int]:
    """Mean of ``[B]`` losses without the largest ``share`` of them, and how many those were."""
    out = math.floor(share * len(losses))
    if out == 0:
        return losses.mean(), 0
    return losses.topk(len(losses) - out, largest=False, sorted=False).values.mean(), out


def evaluate(function: Callable[[WindowBatch], Tensor], data: WindowBatch, batch: int) -> Tensor:
    """Apply ``function`` to all windows, without gradients and a few mini-batches at a time."""
    with torch.no_grad():
        return torch.cat([function(part) for part in data.chunks(4 * batch)])


def held_out_loss(
    loss: Callable[[WindowBatch], Tensor], data: WindowBatch, settings: Training
) -> float:
    """Trimmed mean loss of windows that training has not seen."""
    losses = evaluate(loss, data, settings.batch)
    return trimmed_mean(losses, settings.trim)[0].item()


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

    Losses at different warmth do not compare, so none of them can choose the best weights.

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
        """One pass; returns the mean loss, or NaN as soon as one is not finite."""
        stage, settings = self.stage, self.stage.settings
        self.late = self.late or self.done >= LATE * settings.epochs
        for player, optimiser in zip(self.players, self.optimisers, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = self.rate * player.rate * (settings.decay if self.late else 1.0)
        # the first epoch still has to find out what is unlike the rest
        trim = settings.trim if self.done > 0 else 0.0
        totals, moves, trimmed = [0.0] * len(self.players), [0] * len(self.players), 0
        for batch in draw(self.generator):
            values, out = self._round(batch, trim)
            trimmed += out
            for i, value in values.items():
                totals[i], moves[i] = totals[i] + value, moves[i] + 1
            if not math.isfinite(sum(totals)):
                return math.nan
            self.average.follow()
            stage.run.steps += 1
            if stage.run.spent(stage.share):
                break
        stage.run.report.trimmed = trimmed
        if not sum(moves):
            return math.nan
        return sum(t / n for t, n in zip(totals, moves, strict=True) if n)

    def _round(self, batch: T, trim: float) -> tuple[dict[int, float], int]:
        """Let every player move whose turn it is; give the losses, and how many the last trimmed.

        Weights that a loss beyond the finite numbers has spoilt are not kept.
        """
        stage, losses, out = self.stage, dict[int, Tensor](), 0
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
            losses[i] = loss.detach()
        # one look for all of them: each waits for the device
        values = torch.stack(list(losses.values())).tolist() if losses else []
        return dict(zip(losses, values, strict=True)), out

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
        first = {name: self.first_weights[name] for name in names}
        self.average.restart({**self.average.current(), **first})
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
