"""ALOCC: noise in training only, a copier that takes it away, a judge that must prove itself."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.nn.functional import softplus

from detectors import Budget
from detectors.alocc import Alocc
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.adversarial import Turn
from schemas.errors import DetectorError


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


def test_losses_of_both_players_by_hand() -> None:
    detector = Alocc(noise=0.3, copying=0.7).fit(small("record"), budget=Budget(steps=2))
    net = detector._net
    generator = torch.Generator().manual_seed(0)
    rows, noise = torch.rand(6, 5, generator=generator), torch.randn(6, 5, generator=generator)
    judge, copier = detector._players()
    copies = net.copy(rows + 0.3 * noise)
    turn = Turn(rows, torch.ones_like(rows), noise)
    told = softplus(-net.critic(rows)) + softplus(net.critic(copies))
    torch.testing.assert_close(judge.loss(turn), told)
    gap = (rows - copies).square().sum(dim=1)
    torch.testing.assert_close(copier.loss(turn), softplus(-net.critic(copies)) + 0.7 * gap)


def test_the_judge_alone_scores_between_zero_and_one() -> None:
    detector = Alocc(score="judge", code=4, batch=64, learning_rate=2e-3)
    detector.fit(sample("SUBSPACE").train, budget=Budget(steps=100))
    data = sample("SUBSPACE").anomalous
    score = detector.score(replace(data, num=100 * data.num)).score
    assert ((score >= 0) & (score <= 1)).all()


def test_an_inverted_judge_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    def tells(share: float) -> None:
        for module in ("adversarial", "alocc"):
            monkeypatch.setattr(f"detectors.{module}.separation", lambda *scores: share)

    lone, both, brief = Alocc(score="judge"), Alocc(), Budget(steps=2)
    tells(0.5)
    for detector in (lone, both):
        detector.fit(small("record"), budget=brief)
    assert float(both._weights[0]) > 0
    tells(0.49)
    with pytest.raises(DetectorError, match="worse than chance; use score=both"):
        Alocc(score="judge").fit(small("record"), budget=brief)
    with pytest.raises(DetectorError, match="worse than chance"):
        lone.partial_fit(small("record"), budget=brief)
    both.partial_fit(small("record"), budget=brief)
    assert float(both._weights[0]) == 0.0


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
