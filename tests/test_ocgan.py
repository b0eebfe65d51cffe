"""OCGAN: bounded codes that fill their space, and mined codes that are worse than drawn ones."""

from functools import cache

import torch

from detectors import Budget
from detectors.checks.sources import sample
from detectors.checks.subject import small
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


def test_the_judge_can_be_asked_instead() -> None:
    detector = Ocgan(score="judge").fit(small("record"), budget=Budget(steps=5))
    score = detector.score(small("record", seed=2)).score
    assert ((score >= 0) & (score <= 1)).all()
