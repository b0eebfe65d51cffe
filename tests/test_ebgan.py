"""EBGAN: both parts of the score and the judge's loss by hand, one pass and no search."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors import Budget, as_batch
from detectors.checks.subject import small
from detectors.ebgan import BidirectionalGan
from detectors.loops.adversarial import Turn, slope


class Counting(nn.Module):
    """Hands rows on and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, rows: Tensor) -> Tensor:
        self.calls += 1
        assert not torch.is_grad_enabled()
        return rows


class Judge(nn.Module):
    """Logit and features that are easy to follow."""

    def features(self, rows: Tensor, codes: Tensor) -> Tensor:
        return torch.cat([2 * rows, codes], dim=1)

    def forward(self, rows: Tensor, codes: Tensor) -> Tensor:
        return rows.sum(dim=1) - codes.sum(dim=1)


def stubbed(**settings: Any) -> BidirectionalGan:
    detector = BidirectionalGan(code=5, **settings).fit(small("record"), budget=Budget(steps=2))
    detector._net.critic = Judge()  # type: ignore[assignment]
    return detector


def test_what_comes_back_as_it_went_scores_zero_in_one_pass() -> None:
    detector = stubbed()
    detector._net.encoder = Counting()  # type: ignore[assignment]
    detector._net.generator = Counting()  # type: ignore[assignment]
    inside = as_batch(detector._scaler.center.expand(7, -1) + torch.linspace(-0.1, 0.1, 7)[:, None])
    assert not detector.score(inside).score.any()
    assert detector._net.encoder.calls == detector._net.generator.calls == 1


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5])
def test_the_score_weighs_distance_and_features(alpha: float) -> None:
    detector = stubbed(alpha=alpha)
    data = small("record", seed=2)
    rows, _ = detector._input(detector._prepare(data))
    with torch.no_grad():
        copies = detector._net.generator(detector._net.encoder(rows.clamp(-1, 1)))
    far = (rows - copies).abs().sum(dim=1)
    features = 2 * (rows.clamp(-1, 1) - copies).abs().sum(dim=1)
    torch.testing.assert_close(detector.score(data).score, (1 - alpha) * far + alpha * features)


def test_the_judge_takes_windows_with_codes_for_real_and_noise_for_made() -> None:
    detector = stubbed(smoothing=0.0, cycle=0.3)
    net = detector._net
    judge, maker = detector._players()
    rows, noise = torch.rand(6, 5) - 0.5, torch.randn(6, 5)
    turn = Turn(rows, torch.ones_like(rows), noise)
    entropy = nn.BCEWithLogitsLoss(reduction="none")
    on_real, on_made = net.critic(rows, net.encoder(rows)), net.critic(net.generator(noise), noise)
    one, zero = torch.ones(6), torch.zeros(6)
    torch.testing.assert_close(judge.loss(turn), entropy(on_real, one) + entropy(on_made, zero))
    cycle = (rows - net.generator(net.encoder(rows))).abs().sum(dim=1)
    against = entropy(on_real, zero) + entropy(on_made, one)
    torch.testing.assert_close(maker.loss(turn), against + 0.3 * cycle)


@pytest.mark.parametrize("game", ["hinge", "lsgan", "wgan_gp"])
def test_other_games_are_played(game: str) -> None:
    data = small("record", windows=200)
    detector = BidirectionalGan(game=game, batch=32).fit(data, budget=Budget(steps=12))
    assert detector.score(data).score.isfinite().all()
    net, rows, noise = detector._net, torch.rand(6, 5) - 0.5, torch.randn(6, 32)
    turn = Turn(rows, torch.ones_like(rows), noise)
    real, made = (rows, net.encoder(rows)), (net.generator(noise), noise)
    on_real, on_made = net.critic(*real), net.critic(*made)
    torch.manual_seed(0)
    expected = {
        "hinge": torch.relu(1 - on_real) + torch.relu(1 + on_made),
        "lsgan": 0.5 * (on_real - 1).square() + 0.5 * on_made.square(),
        "wgan_gp": on_made - on_real + 10 * (slope(net.critic, real, made) - 1).square(),
    }[game]
    torch.manual_seed(0)
    torch.testing.assert_close(detector._players()[0].loss(turn), expected)
