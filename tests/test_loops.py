"""The machinery under all training loops: limits, guards, mini-batches."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from detectors import Budget, FitReport, create
from detectors.checks.subject import small
from detectors.loops.batches import minibatches, split, trimmed_mean
from detectors.loops.stage import Run, Stage, Training, gentle
from detectors.loops.training import RETRIES, train
from schemas.errors import DetectorError

BATCHES = 10


def stage(budget: Budget | None = None, share: float = 1.0, **settings: float) -> Stage:
    """One weight, four at the start, whose best value is zero."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 4.0)
    run = Run(0, budget or Budget(), FitReport())
    return Stage(model, Training(**{"learning_rate": 0.01, **settings}), run, share)  # type: ignore[arg-type]


def draw(generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(BATCHES):
        yield torch.ones(8, 1)


def square(of: Stage) -> Callable[[Tensor], Tensor]:
    return lambda batch: of.model(batch).square().squeeze(1)


@pytest.mark.parametrize(
    ("budget", "share", "steps", "stopped"),
    [
        (Budget(), 1.0, 5 * BATCHES, "epochs"),
        (Budget(steps=7), 1.0, 7, "budget"),
        (Budget(steps=2 * BATCHES), 1.0, 2 * BATCHES, "budget"),
        (Budget(steps=8), 0.5, 4, "budget"),
        (Budget(steps=1000), 1.0, 5 * BATCHES, "epochs"),
        (Budget(seconds=0.0), 1.0, 0, "budget"),
    ],
)
def test_training_does_no_more_than_its_budget(
    budget: Budget, share: float, steps: int, stopped: str
) -> None:
    training = stage(budget, share, epochs=5)
    train(training, draw, square(training))
    assert training.run.steps == steps
    assert training.run.report.stopped == stopped
    assert len(training.run.report.losses) == math.ceil(steps / BATCHES)


def test_a_limit_on_time_ends_training_within_an_epoch() -> None:
    training = stage(epochs=5)
    ticks = itertools.count()
    run = Run(0, Budget(seconds=6.5, clock=lambda: float(next(ticks))), FitReport())
    training = Stage(training.model, training.settings, run)
    train(training, draw, square(training))
    assert run.report.stopped == "budget"
    assert 0 < run.steps < BATCHES


def test_the_best_weights_are_kept_and_a_lack_of_progress_ends_training() -> None:
    training = stage(epochs=50, patience=2)
    values, weights = [3.0, 2.0, 1.0, *[1.5] * 50], []

    def validate() -> float:
        weights.append(training.model.weight.detach().clone())  # type: ignore[operator]
        return values[len(weights) - 1]

    train(training, draw, square(training), validate=validate)
    assert training.run.report.stopped == "early stop"
    assert len(weights) == 3 + 2 + 2  # patience ends twice: the rate decays first
    assert torch.equal(training.model.weight, weights[2])  # type: ignore[arg-type]
    assert not training.model.training
    assert not any(p.requires_grad for p in training.model.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_costs_a_retry_from_good_weights(bad: float) -> None:
    training, seen = stage(epochs=3), list[float]()
    spoilt = [k * BATCHES + 3 for k in range(1, RETRIES + 1)]  # each in mid-epoch, after the first

    def loss(batch: Tensor) -> Tensor:
        found = square(training)(batch)
        seen.append(float(found.detach().mean()))
        return found * (bad if len(seen) - 1 in spoilt else 1.0)

    train(training, draw, loss)
    losses = training.run.report.losses
    assert len(losses) == 3
    assert 16 > losses[0] > losses[1] > losses[2]
    # every retry of the second epoch starts over
    assert {seen[(k + 1) * BATCHES] for k in range(RETRIES + 1)} == {seen[BATCHES]}
    assert seen[BATCHES] > seen[BATCHES + 3]
    assert losses[0] - losses[1] > 4 * (losses[1] - losses[2])  # thrice at half the rate


def test_training_that_always_diverges_says_what_to_change() -> None:
    training = stage()
    with pytest.raises(DetectorError, match=rf"diverged {RETRIES + 1} times.*learning_rate"):
        train(training, draw, lambda batch: square(training)(batch) * math.nan)
    assert float(training.model.weight) == 4.0  # type: ignore[arg-type]


def test_updates_are_a_few_epochs_at_a_tenth_of_the_rate() -> None:
    update = gentle(Training(epochs=30, learning_rate=1e-2))
    assert update.epochs == 5
    assert update.learning_rate == pytest.approx(1e-3)
    assert gentle(Training(epochs=1)).epochs == 1


def test_the_worst_losses_are_trimmed() -> None:
    losses = torch.tensor([1.0, 100.0, 2.0, 3.0])
    for share, expected, trimmed in ((0.25, 2.0, 1), (0.2, 26.5, 0), (0.6, 1.5, 2)):
        mean, out = trimmed_mean(losses, share)
        assert (float(mean), out) == (expected, trimmed)


@pytest.mark.parametrize(("trained", "first"), [(False, 0), (True, 2 * BATCHES)])
def test_trimming_begins_once_the_network_knows_what_is_normal(trained: bool, first: int) -> None:
    training, trimmed = stage(trim=0.25, epochs=3), []
    training.run.trained = trained
    report = training.run.report
    train(training, draw, square(training), after_epoch=lambda _: trimmed.append(report.trimmed))
    assert trimmed == [first, 2 * BATCHES, 2 * BATCHES]


@pytest.mark.parametrize("name", ["ae", "lstm_ae", "ffp", "uoda"])
def test_an_update_trims_from_its_first_epoch_on(name: str) -> None:
    detector = create(name, trim=0.3, batch=10, epochs=5)
    detector.fit(small("series"), budget=Budget(steps=2))
    assert detector.report.trimmed == 0
    detector.partial_fit(small("series")[:22], budget=Budget(steps=2))
    assert len(detector.report.losses) == 1
    assert detector.report.trimmed == 6


def test_a_warm_up_finds_out_what_is_normal() -> None:
    detector = create("vae", trim=0.3, batch=10, epochs=1, warm_up=1)
    detector.fit(small("series")[:22])
    assert len(detector.report.losses) == 2
    assert detector.report.trimmed == 6


def test_the_latest_tenth_is_held_out() -> None:
    data = small("series")
    early, late = split(data)
    assert (len(early), len(late)) == (43, 5)
    assert torch.equal(torch.cat([early.num, late.num]), data.num)
    assert [len(part) for part in split(data[:1])] == [1, 1]


def test_an_epoch_shows_each_window_once_up_to_its_limit() -> None:
    data = small("record")
    generator = torch.Generator().manual_seed(0)
    epoch = list(minibatches(data, Training(batch=20), generator))
    assert [len(batch) for batch in epoch] == [20, 20, 8]
    shown = torch.cat([batch.num for batch in epoch])[:, 0, 0]
    assert torch.equal(shown.sort().values, data.num[:, 0, 0].sort().values)
    assert not torch.equal(shown, data.num[:, 0, 0])
    brief = minibatches(data, Training(batch=20, steps_per_epoch=1), generator)
    assert [len(batch) for batch in brief] == [20]
