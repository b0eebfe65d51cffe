"""Multiple-instance ranking: labels of sessions, answers about steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.mil import NOTHING, Bags, MultipleInstanceRanking, ranking_loss

REAL = torch.ones(1, 3, dtype=torch.bool)


@pytest.fixture(scope="module")
def fitted() -> MultipleInstanceRanking:
    data = sample("BAGS")
    detector = MultipleInstanceRanking(seed=0, learning_rate=3e-3)
    return detector.fit(data.train, data.labels, budget=Budget(steps=400))


def test_the_hinge_is_zero_once_the_best_step_leads_by_one() -> None:
    positive, negative = torch.tensor([[0.0, 1.0, 0.0]]), torch.zeros(4, 3)
    assert ranking_loss(positive, negative, REAL, 0.0, 0.0).tolist() == [0.0]
    assert ranking_loss(0.4 * positive, negative, REAL, 0.0, 0.0).item() == pytest.approx(0.6)


def test_a_constant_costs_the_whole_margin() -> None:
    same = torch.zeros(1, 3)  # each step is half an anomaly
    assert ranking_loss(same, same, REAL, 0.0, 0.0).tolist() == [1.0]
    assert ranking_loss(same, same, REAL, 1.0, 0.0).tolist() == [1.0]
    assert ranking_loss(same, same, REAL, 0.0, 1.0).tolist() == [2.5]


def test_bags_that_are_surely_odd_still_move_apart() -> None:
    positive = torch.full((1, 3), 200.0, requires_grad=True)
    ranking_loss(positive, torch.full((1, 3), 200.0), REAL, 0.0, 0.0).backward()  # type: ignore[no-untyped-call]
    assert positive.grad is not None
    assert positive.grad.sum() == -1.0


def test_padding_is_not_rough() -> None:
    positive = torch.tensor([[0.2, 0.8, 0.0]]).logit()
    positive[0, 2] = NOTHING
    real = torch.tensor([[True, True, False]])
    rough = ranking_loss(positive, torch.full((1, 3), NOTHING), real, 1.0, 0.0)
    assert rough.item() == pytest.approx(0.36)


@torch.no_grad()
def test_what_lies_under_the_mask_never_wins(fitted: MultipleInstanceRanking) -> None:
    data, net = sample("BAGS"), fitted._net.eval()
    odd, other = (fitted._prepare(x[:64]) for x in (data.anomalous, data.normal))
    whole = net(odd)
    cut = torch.arange(odd.steps) < whole.argmax(dim=1, keepdim=True)  # the best step and on
    assert (whole.amax(dim=1) > net(replace(odd, mask=cut)).amax(dim=1)).all()
    for part, bags in (("positive", Bags(odd, other)), ("negative", Bags(other, odd))):
        hidden = bags._replace(**{part: replace(odd, mask=cut)})
        blank = replace(odd, mask=cut, num=odd.num * cut.unsqueeze(2))
        assert not torch.allclose(fitted._loss(hidden), fitted._loss(bags))
        expected = fitted._loss(bags._replace(**{part: blank}))
        torch.testing.assert_close(fitted._loss(hidden), expected)


def test_each_labelled_bag_is_beside_all_others() -> None:
    positive, negative = torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 0.0], [0.5, 0.1]])
    real = torch.ones(1, 2, dtype=torch.bool)
    assert ranking_loss(positive, negative, real, 0.0, 0.0).item() == pytest.approx(0.75)


def test_sessions_and_their_steps_are_found(fitted: MultipleInstanceRanking) -> None:
    data = sample("BAGS")
    normal, odd = (fitted.score(x) for x in (data.normal, data.anomalous))
    assert ranking(normal.score, odd.score) > 0.9
    scores = fitted.score(data.anomalous, explain="full")
    assert scores.step is not None
    # where the wave is quick, neighbouring steps differ most
    rough = (data.anomalous.num[:, 1:] - data.anomalous.num[:, :-1]).abs().sum(dim=2)
    middle = rough.unfold(1, 5, 1).sum(dim=2).argmax(dim=1) + 3
    away = (scores.step.argmax(dim=1) - middle).abs()
    assert (away <= 6).double().mean() > 0.7


def test_levels_close_together_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    levels = rng.choice([0.0, 0.02, 0.04], size=(600, 1, 1))
    bags = levels + rng.normal(0, 0.002, (600, 12, 1))
    far = rng.random(bags.shape) < 0.2
    bags[far] += 5 * rng.standard_t(1.5, far.sum())  # how far the tails reach
    odd = levels.ravel() == 0.02
    detector = MultipleInstanceRanking(seed=0).fit(
        bags[:400].astype(np.float32), odd[:400].astype(np.int8), budget=Budget(steps=400)
    )
    score = detector.score(bags[400:].astype(np.float32)).score
    judged = torch.as_tensor(odd[400:])
    assert ranking(score[~judged], score[judged]) > 0.9


def test_a_new_label_is_learned_and_the_old_ones_stay(fitted: MultipleInstanceRanking) -> None:
    data = sample("BAGS")
    detector = MultipleInstanceRanking(seed=0, learning_rate=3e-3)
    detector.fit(data.train, data.labels, budget=Budget(steps=400))
    flat = data.normal.num.clone()
    flat[:, 20:26] = 0.0  # a kind of anomaly that no label has named yet
    data_flat = type(data.normal)(flat, data.normal.cat, data.normal.mask, data.normal.vocab)
    before = ranking(detector.score(data.normal).score, detector.score(data_flat[250:]).score)
    labels = np.full(250, 1, dtype=np.int8)
    for _ in range(4):
        detector.partial_fit(data_flat[:250], labels, budget=Budget(steps=150))
    after = ranking(detector.score(data.normal).score, detector.score(data_flat[250:]).score)
    assert after > max(before, 0.9)
    odd = detector.score(data.anomalous).score
    assert ranking(detector.score(data.normal).score, odd) > 0.8
