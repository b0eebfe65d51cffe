"""What adversarial detectors share: players in turns, games, guards, the fringe, the box."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from detectors import Budget, FitReport, WindowBatch, as_batch
from detectors.adversarial import GenerativeDetector
from detectors.alad import Alad
from detectors.anogan import AnoGan
from detectors.boxed import BoxedInput
from detectors.checks.subject import small
from detectors.ebgan import BidirectionalGan
from detectors.fanogan import FastAnoGan
from detectors.ganomaly import Ganomaly
from detectors.loops import adversarial as loops
from detectors.loops.adversarial import (
    CRITIC_MOVES,
    PATIENCE,
    Game,
    Rules,
    Turn,
    Watch,
    fringe,
    separation,
    slope,
)
from detectors.loops.attribution import nearest
from detectors.loops.averaging import Average
from detectors.loops.stage import Player, Run, Stage, Training
from detectors.loops.training import last_is_best, play
from detectors.nets.adversarial import Critic, Makers, PairCritic, encoder

BATCHES = 10


class Two(nn.Module):
    """Two weights, each one's own player."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(1, 1, bias=False)
        self.other = nn.Linear(1, 1, bias=False)
        for layer in (self.one, self.other):
            nn.init.constant_(layer.weight, 1.0)


def draw(generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(BATCHES):
        yield torch.ones(8, 1)


def stage(average: float = 0.0, **settings: float) -> Stage:
    training = Training(**{"learning_rate": 0.01, **settings})  # type: ignore[arg-type]
    return Stage(Two(), training, Run(0, Budget(), FitReport()), average=average)


def weights(of: Stage) -> tuple[float, float]:
    one, other = (float(p) for p in of.model.parameters())
    return one, other


def test_each_player_moves_its_own_weights_only() -> None:
    training = stage(epochs=1)
    net = training.model
    assert isinstance(net, Two)

    def both(batch: Tensor) -> Tensor:
        learning = [p.requires_grad for p in net.parameters()]
        seen.append(learning)
        found: Tensor = (net.one(batch) + net.other(batch)).squeeze(1)
        return found

    seen: list[list[bool]] = []
    play(training, draw, [Player([net.one], both), Player([net.other], lambda b: -both(b))])
    one, other = weights(training)
    assert one == pytest.approx(1 - 0.01 * BATCHES, rel=1e-3)
    assert other == pytest.approx(1 + 0.01 * BATCHES, rel=1e-3)
    assert seen == [[True, False], [False, True]] * BATCHES
    assert not any(p.requires_grad for p in net.parameters())


def test_players_have_their_own_pace_and_a_step_is_a_mini_batch() -> None:
    training = stage(epochs=1)
    net, moves = training.model, {"one": 0, "other": 0}
    assert isinstance(net, Two)

    def count(name: str, layer: nn.Module) -> Player[Tensor]:
        def loss(batch: Tensor) -> Tensor:
            moves[name] += 1
            found: Tensor = layer(batch).squeeze(1)
            return found

        return Player([layer], loss, rate=0.5, every=3 if name == "other" else 1)

    play(training, draw, [count("one", net.one), count("other", net.other)])
    assert moves == {"one": BATCHES, "other": math.ceil(BATCHES / 3)}
    assert training.run.steps == BATCHES
    assert weights(training)[0] == pytest.approx(1 - 0.005 * BATCHES, rel=1e-3)
    # the sum of the mean losses of the players
    assert training.run.report.losses == [pytest.approx(2.0, abs=0.05)]


def test_a_player_that_asks_for_it_starts_over_alone() -> None:
    training = stage(epochs=2)
    net, asked = training.model, iter([True, False])
    assert isinstance(net, Two)
    first = Player[Tensor](
        [net.one], lambda b: net.one(b).squeeze(1), starts_over=lambda: next(asked)
    )
    second = Player[Tensor]([net.other], lambda b: net.other(b).squeeze(1))
    play(training, draw, [first, second])
    one, other = weights(training)
    assert one == pytest.approx(1 - 0.01 * BATCHES, rel=1e-3)
    assert other == pytest.approx(1 - 0.02 * BATCHES, rel=1e-2)


def test_who_starts_over_takes_nothing_from_the_average_of_others() -> None:
    def trained(answers: list[bool]) -> tuple[float, float]:
        training = stage(average=0.9, epochs=2, decay=1.0)
        net, asked = training.model, iter(answers)
        assert isinstance(net, Two)
        first = Player[Tensor](
            [net.one], lambda b: net.one(b).squeeze(1), starts_over=lambda: next(asked)
        )
        second = Player[Tensor]([net.other], lambda b: net.other(b).squeeze(1))
        play(training, draw, [first, second], validate=last_is_best())
        return weights(training)

    one, other = trained([True, False])
    assert other == pytest.approx(trained([False, False])[1], abs=1e-7)
    short = stage(average=0.9, epochs=1, decay=1.0)
    net = short.model
    assert isinstance(net, Two)
    play(short, draw, [Player[Tensor]([net.one], lambda b: net.one(b).squeeze(1))])
    assert one == pytest.approx(weights(short)[0], abs=1e-6)  # as if the first epoch had not been


def test_a_running_average_is_validated_and_kept() -> None:
    training = stage(average=0.9, epochs=2, decay=1.0)
    net, shown, raw = training.model, list[float](), list[float]()
    assert isinstance(net, Two)

    def loss(batch: Tensor) -> Tensor:
        raw.append(float(net.one.weight.detach()))
        found: Tensor = net.one(batch).squeeze(1)
        return found

    def validate() -> float:
        shown.append(float(net.one.weight.detach()))
        return -float(len(shown))

    play(training, draw, [Player([net], loss)], validate=validate)
    assert weights(training)[0] == shown[-1] > raw[-1]  # the average lags behind
    assert raw[BATCHES] < shown[0]  # and training goes on from where it was


def test_an_average_forgets_its_start() -> None:
    layer = nn.Linear(1, 1)
    average = Average(layer, 0.999)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    for _ in range(50):
        average.follow()
    assert float(average.weights()["weight"]) == pytest.approx(5.0, abs=0.01)
    plain = Average(layer, 0.0)
    assert torch.equal(plain.weights()["weight"], layer.weight)


def test_losses_of_all_games_by_hand() -> None:
    logits = torch.tensor([-0.5, 2.0])
    log = torch.log
    d = torch.sigmoid(logits)
    expected: dict[Game, tuple[Tensor, ...]] = {
        "bce": (-log(d), -log(1 - d), -log(d), -log(1 - d)),
        "hinge": (torch.tensor([1.5, 0.0]), torch.tensor([0.5, 3.0]), -logits, logits),
        "lsgan": tuple(0.5 * (logits - t).square() for t in (1, 0, 1, 0)),
        "wgan_gp": (-logits, logits, -logits, logits),
    }
    for game, values in expected.items():
        rules = Rules(game)
        found = (
            rules.judge(logits, real=True),
            rules.judge(logits, real=False),
            rules.persuade(logits, real=True),
            rules.persuade(logits, real=False),
        )
        for one, other in zip(found, values, strict=True):
            torch.testing.assert_close(one, other)
    smooth = Rules("bce", 0.1).judge(logits, real=True)
    torch.testing.assert_close(smooth, -0.9 * log(d) - 0.1 * log(1 - d))


def test_a_wasserstein_critic_tells_two_gaussians_apart_at_slope_one() -> None:
    torch.manual_seed(0)
    critic, rules = Critic(2, (32, 32), norm="layer"), Rules("wgan_gp")
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3, betas=rules.betas)
    shift = torch.tensor([3.0, 0.0])
    for _ in range(300):
        real, made = torch.randn(64, 2) + shift, torch.randn(64, 2)
        optimiser.zero_grad()
        rules.duel(critic, (real,), (made,)).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    real, made = torch.randn(500, 2) + shift, torch.randn(500, 2)
    gap = critic(real).mean() - critic(made).mean()
    assert 2 < float(gap.detach()) < 4  # the distance of the two is three
    assert float(slope(critic, (real,), (made,)).mean().detach()) == pytest.approx(1.0, abs=0.2)
    assert rules.every == CRITIC_MOVES


@pytest.mark.parametrize("cls", [Alad, AnoGan, BidirectionalGan, FastAnoGan, Ganomaly])
def test_the_slope_of_a_critic_is_that_in_the_real_entries(
    cls: type[GenerativeDetector], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = cls(game="wgan_gp").fit(small("record"), budget=Budget(steps=2))
    rows, asked = torch.rand(6, 5), list[int]()
    real = torch.ones(6, 5)
    rows[:, 3:], real[:, 3:] = 0.0, 0.0

    def asks(critic: Callable[..., Tensor], true: tuple[Tensor, ...], made: object) -> Tensor:
        seen, *others = true
        asked.append(seen.shape[1])
        if seen.shape[1] % 5 == 0:  # rows, or two of them side by side
            noise = 9 * (1 - real).repeat(1, seen.shape[1] // 5)
            assert torch.equal(critic(seen + noise, *others), critic(*true))
        return torch.ones(6)

    monkeypatch.setattr(loops, "slope", asks)
    turn = Turn(rows, real, torch.randn(6, detector._code()))
    if cls is AnoGan:  # which scores in double precision
        rows, real = rows.double(), real.double()
        turn = Turn(*(part.double() for part in turn))
    detector._players()[0].loss(turn)
    assert asked[0] == 5


def test_a_judge_that_is_too_sure_for_long_is_noticed() -> None:
    watch = Watch("bce")
    assert not watch.stuck()
    sure, unsure = torch.full((4,), 9.0), torch.zeros(4)
    for _ in range(PATIENCE - 1):
        watch.note(sure, -sure)
    assert not watch.stuck()
    watch.note(sure, -sure)
    assert watch.stuck()
    for _ in range(2 * PATIENCE):
        watch.note(unsure, unsure)
    assert not watch.stuck()
    watch.note(sure, -sure)
    assert not watch.stuck()
    other = Watch("wgan_gp")  # its logits are no log-odds
    for _ in range(2 * PATIENCE):
        other.note(sure, -sure)
    assert not other.stuck()


def test_the_fringe_is_near_and_not_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(1000, 1, generator=generator)
    rows = torch.cat([first, -first, 2 * first], dim=1)
    odd = fringe(rows, torch.ones_like(rows), generator)
    off = (odd[:, 0] + odd[:, 1]).abs()
    assert float((off > 0.05).double().mean()) > 0.7
    noisy, swapped = odd[::2] - rows[::2], odd[1::2]
    assert float(noisy.std(dim=0)[0]) < 3.0
    assert set(swapped[:, 0].tolist()) <= set(rows[:, 0].tolist())
    real = torch.ones_like(rows)
    real[:, 2] = 0.0
    assert not fringe(rows, real, generator)[:, 2].any()


def test_separation_counts_pairs_in_the_right_order() -> None:
    normal, odd = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0])
    assert separation(normal, odd) == pytest.approx((1.5 + 3) / 6)


def test_a_box_holds_nearly_all_and_clips_nothing() -> None:
    data = as_batch(torch.randn(5000, 3, generator=torch.Generator().manual_seed(1)))
    boxed = BoxedInput.fit(data)
    rows, real = boxed(data)
    assert 0.99 < float((rows.abs() <= 1).float().mean()) < 1
    assert float(rows.abs().max()) > 1
    assert bool((real == 1).all())


@pytest.mark.parametrize("name", ["mixed", "series"])
def test_only_who_says_so_loses_the_numbers_of_a_batch(name: str) -> None:
    data = small(name)
    before = data.num.clone()
    boxed = BoxedInput.fit(data)
    rows, _ = boxed(data)
    torch.testing.assert_close(data.num, before, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(boxed(data, consume=True)[0], rows)


@pytest.mark.parametrize("name", ["mixed", "sequence"])
def test_rows_are_zero_under_the_mask_and_shorter_windows_are_padded(name: str) -> None:
    data = small(name)
    boxed = BoxedInput.fit(data)
    rows, real = boxed(data)
    assert rows.shape == real.shape == (len(data), boxed.width)
    assert not rows[real == 0].any()
    if data.steps > 1:
        brief: WindowBatch = replace(
            data, num=data.num[:, :2], cat=data.cat[:, :2], mask=data.mask[:, :2]
        )
        short, there = boxed(brief)
        columns = boxed.inner.columns
        torch.testing.assert_close(short[:, : 2 * columns], rows[:, : 2 * columns])
        assert not there[:, 2 * columns :].any()


def test_spectral_norms_bound_how_steep_a_network_is() -> None:
    torch.manual_seed(0)
    net = encoder(6, (16,), 4, norm="spectral")
    for _ in range(50):  # power iterations, one a pass
        net(torch.randn(2, 6))
    net.eval()
    a, b = torch.randn(200, 6), torch.randn(200, 6)
    with torch.no_grad():
        steepness = (net(a) - net(b)).norm(dim=1) / (a - b).norm(dim=1)
    assert float(steepness.max()) <= 1.01


def test_the_judge_of_pairs_does_not_care_how_large_codes_are() -> None:
    torch.manual_seed(0)
    critic, rows, codes = PairCritic(5, 3, 16, [8]), torch.randn(4, 5), torch.randn(4, 3)
    with torch.no_grad():
        critic.codes[0].bias.zero_()  # type: ignore[operator]
        found, larger = critic(rows, codes), critic(rows, 100 * codes)
    torch.testing.assert_close(found, larger, atol=1e-3, rtol=1e-3)


def test_the_nearest_example_is_nearest_in_the_real_entries() -> None:
    rows = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    real = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    examples = torch.tensor([[1.0, 2.0, -9.0], [2.0, 3.0, 0.0]])
    assert nearest(rows, examples, real).tolist() == [0, 1]
    assert nearest(rows, examples).tolist() == [1, 1]


def test_makers_begin_by_handing_on_their_noise() -> None:
    noise = 2 * torch.rand(7, 3) - 1
    torch.testing.assert_close(Makers(4, 3)(noise), noise.expand(4, -1, -1))
