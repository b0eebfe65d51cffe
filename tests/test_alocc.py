"""ALOCC: noise in training only, a copier that takes it away, a judge that must prove itself."""

from dataclasses import replace
from functools import cache

import torch

from detectors import Budget
from detectors.alocc import Alocc
from detectors.checks.sources import sample
from detectors.checks.subject import small


@cache
def learned() -> Alocc:
    detector = Alocc(code=4, batch=64, learning_rate=2e-3)
    return detector.fit(sample("SUBSPACE").train, budget=Budget(steps=400))


def test_copies_of_noisy_windows_are_closer_to_the_clean_ones() -> None:
    detector = learned()
    rows, _ = detector._input(detector._prepare(sample("SUBSPACE").normal))
    rows = rows.clamp(-1, 1)
    noisy = rows + 0.15 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    copies = detector._net.copy(noisy)
    assert float((copies - rows).norm(dim=1).mean()) < float((noisy - rows).norm(dim=1).mean())


def test_scores_have_no_noise_in_them() -> None:
    data, detector = sample("SUBSPACE").normal, learned()
    rows, _ = detector._input(detector._prepare(data))
    copies = detector._net.copy(rows.clamp(-1, 1))
    opinion = torch.sigmoid(-detector._net.critic(copies))
    parts = torch.stack([opinion, (rows - copies).square().mean(dim=1)], dim=1)
    torch.testing.assert_close(detector.score(data).score, parts @ detector._weights)


def test_the_judge_alone_scores_between_zero_and_one() -> None:
    detector = Alocc(score="judge").fit(small("record"), budget=Budget(steps=5))
    score = detector.score(replace(small("record"), num=100 * small("record").num)).score
    assert ((score >= 0) & (score <= 1)).all()


def test_a_judge_worse_than_chance_has_no_say() -> None:
    detector = Alocc().fit(small("record"), budget=Budget(steps=2))
    net, (rows, real) = detector._net, detector._input(detector._prepare(small("record")))
    far = 3 * rows
    for sign, asked in ((1.0, True), (-1.0, False)):
        net.critic.forward = lambda r, sign=sign: -sign * r.abs().sum(dim=1)  # type: ignore
        net.copy = lambda r: r  # type: ignore[assignment,method-assign]
        detector._calibrate(rows.clamp(-0.3, 0.3), far, real)
        assert bool(detector._weights[0] > 0) is asked
        assert float(detector._weights[1]) > 0


def test_an_update_teaches_the_judge_and_leaves_the_copier() -> None:
    detector = Alocc(batch=16).fit(small("record"), budget=Budget(steps=5))
    before = {n: p.clone() for n, p in detector._net.named_parameters()}
    detector.partial_fit(small("record", seed=3))
    for name, weight in detector._net.named_parameters():
        assert torch.equal(weight, before[name]) != name.startswith("critic."), name
