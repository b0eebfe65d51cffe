"""OCGAN: bounded codes that fill their space, and mined codes that are worse than drawn ones."""

from functools import cache

import torch
from torch.nn.functional import softplus

from detectors import Budget
from detectors.adversarial import uniform
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.adversarial import Turn
from detectors.nets.adversarial import Critic
from detectors.ocgan import Ocgan


@cache
def learned(steps: int = 250) -> Ocgan:
    detector = Ocgan(code=3, batch=64, mining_after=50, patience=1000)
    return detector.fit(sample("SUBSPACE").train, budget=Budget(steps=steps))


def codes(steps: int) -> torch.Tensor:
    detector = learned(steps)
    rows, _ = detector._input(detector._prepare(sample("SUBSPACE").normal))
    found: torch.Tensor = detector._net.encoder(rows.clamp(-1, 1))
    return found


def test_codes_are_bounded_and_spread_to_fill_their_space() -> None:
    first, last = codes(1), codes(250)
    assert float(last.abs().max()) < 1
    uniform = 1 / 3
    gaps = [(found.var(dim=0) - uniform).abs().mean() for found in (first, last)]
    assert float(gaps[1]) < 0.5 * float(gaps[0])


def test_mined_codes_stay_inside_and_look_worse_to_the_classifier() -> None:
    detector = learned()
    net, real = detector._net, torch.ones(300, 16)
    drawn = detector._noise(300, torch.Generator().manual_seed(0))
    mined = detector._mined(drawn, real)
    assert float(mined.abs().max()) <= 1
    before, after = net.weak(net.decoder(drawn)), net.weak(net.decoder(mined))
    assert (after <= before + 1e-6).double().mean() > 0.95
    assert float(after.mean()) < float(before.mean())


def test_losses_of_all_players_by_hand() -> None:
    detector = Ocgan(noise=0.0, code=3, hidden=(8, 8)).fit(small("record"), budget=Budget(steps=2))
    net = detector._net
    generator = torch.Generator().manual_seed(0)
    rows, drawn = uniform(6, 5, generator), uniform(6, 3, generator)
    real = torch.ones(6, 5)
    rows[:2, 3:], real[:2, 3:] = 0.0, 0.0  # the last entries of two rows are padding
    turn = Turn(rows, real, drawn)
    codes = net.encoder(rows)
    copies, made = net.decoder(codes) * real, net.decoder(drawn) * real
    weak, of_codes, of_rows, copier = detector._players()

    def told(judge: Critic, true: torch.Tensor, false: torch.Tensor) -> torch.Tensor:
        return softplus(-judge(true)) + softplus(judge(false))

    torch.testing.assert_close(weak.loss(turn), told(net.weak, copies, made))
    torch.testing.assert_close(of_codes.loss(turn), told(net.of_codes, drawn, codes))
    torch.testing.assert_close(of_rows.loss(turn), told(net.of_rows, rows, made))
    gap = (rows - copies).square()
    mean = torch.cat([gap[:2, :3].mean(dim=1), gap[2:].mean(dim=1)])
    expected = 10 * mean + softplus(-net.of_codes(codes)) + softplus(-net.of_rows(made))
    torch.testing.assert_close(copier.loss(turn), expected)
    movers = [player.modules for player in (weak, of_codes, of_rows, copier)]
    assert movers == [[net.weak], [net.of_codes], [net.of_rows], [net.encoder, net.decoder]]


def test_the_judge_can_be_asked_instead() -> None:
    detector = Ocgan(score="judge").fit(small("record"), budget=Budget(steps=5))
    score = detector.score(small("record", seed=2)).score
    assert ((score >= 0) & (score <= 1)).all()
