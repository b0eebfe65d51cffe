"""What training works with: settings, the budget of a fit, and who learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Generic, Literal, Self, TypeVar

import msgspec
from torch import Tensor, nn

from detectors.detector import Budget, FitReport

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]
Weight = Annotated[float, msgspec.Meta(ge=0.0)]

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
    weight_decay: Weight = 0.0
    clip: Positive = 1.0
    patience: Count = 3
    trim: Share = 0.0
    optimiser: Literal["adam", "rmsprop"] = "adam"


SettingsT = TypeVar("SettingsT", bound=Training)


def gentle(settings: SettingsT, *, rate: float = 0.1) -> SettingsT:
    """Turn the settings of a fit into those of an update: few epochs at a share of the rate."""
    return msgspec.structs.replace(
        settings,
        epochs=max(1, min(5, settings.epochs // 5)),
        learning_rate=rate * settings.learning_rate,
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
    trained
        Whether the network already knows what is normal when training begins, as it does in an
        update.
    steps
        Optimiser steps done.
    """

    seed: int
    budget: Budget
    report: FitReport
    trained: bool = False
    steps: int = 0
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.budget.clock()
        self.report.losses, self.report.trimmed = [], 0

    @classmethod
    def of_update(cls, seed: int, budget: Budget, report: FitReport) -> Self:
        """Begin an update: with draws of its own, by a network that knows what is normal."""
        return cls(seed + 1, budget, report, trained=True)

    def spent(self, share: float = 1.0) -> bool:
        """Whether ``share`` of the budget is used up."""
        seconds, steps = self.budget.seconds, self.budget.steps
        late = seconds is not None and self.budget.clock() - self.started >= share * seconds
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
