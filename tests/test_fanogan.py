"""Fast AnoGAN: two stages, of which the second leaves the first alone; the score by hand."""

from typing import Any

import pytest
import torch

from detectors import Budget
from detectors.checks.subject import small
from detectors.fanogan import FastAnoGan
from detectors.loops.adversarial import Turn
from detectors.loops.stage import Player, Stage
from detectors.nets.modules import module_state


def test_the_encoder_leaves_maker_and_judge_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    compete = FastAnoGan._compete

    def watched(self: FastAnoGan, stage: Stage, players: list[Player[Turn]], *rest: Any) -> float:
        wrong = compete(self, stage, players, *rest)
        seen.append({n: t.clone() for n, t in module_state(self._net, "").items()})
        return wrong

    monkeypatch.setattr(FastAnoGan, "_compete", watched)
    FastAnoGan(batch=16).fit(small("record", windows=200), budget=Budget(steps=60))
    first, second = seen
    for name in first:
        moved = not torch.equal(first[name], second[name])
        assert moved == name.startswith("encoder."), name


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.5])
def test_the_score_is_the_loss_of_the_encoder(kappa: float) -> None:
    data = small("record", seed=2)
    detector = FastAnoGan(kappa=kappa).fit(small("record"), budget=Budget(steps=4))
    net, (rows, real) = detector._net, detector._input(detector._prepare(data))
    seen = rows.clamp(-1, 1)
    copies = net.generator(net.encoder(seen))
    features = net.critic.features(seen) - net.critic.features(copies)
    expected = (rows - copies).square().mean(dim=1) + kappa * features.square().mean(dim=1)
    torch.testing.assert_close(detector.score(data).score, expected)
    turn = Turn(rows.clamp(-1, 1), real, torch.zeros(len(rows), 32))
    player = detector._encoding()
    assert list(player.modules) == [net.encoder]
    inside = (rows.abs() <= 1).all(dim=1)
    assert int(inside.sum()) > 10
    torch.testing.assert_close(player.loss(turn)[inside], expected[inside])


@pytest.mark.parametrize("game", ["bce", "hinge", "lsgan"])
def test_other_games_are_played(game: str) -> None:
    data = small("record", windows=100)
    detector = FastAnoGan(game=game, batch=32).fit(data, budget=Budget(steps=12))
    assert detector.score(data).score.isfinite().all()
