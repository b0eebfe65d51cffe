"""Future frame prediction: nothing leaks from the future, and forbidden steps stand out."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from detectors import Budget, as_batch
from detectors.capabilities import Source
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.ffp import (
    FutureFrameNet,
    FutureFramePrediction,
    _counts_before,
    _persistence,
    co_movement_loss,
    gradient_loss,
)
from detectors.loops.prediction import delayed, misplaced
from detectors.nets.heads import Guess


@cache
def learned(source: Source) -> FutureFramePrediction:
    """A detector that others may read and not change."""
    detector, steps = FutureFramePrediction(hidden=32), {"WAVES": 100, "GRAMMAR": 250}[source]
    return detector.fit(sample(source).train, budget=Budget(steps=steps))


@pytest.mark.parametrize("name", ["series", "sequence", "events"])
def test_a_step_changes_no_prediction_of_itself_or_of_earlier_ones(name: str) -> None:
    data = small(name)
    data = data[data.lengths == data.steps]
    detector = FutureFramePrediction(hidden=8).fit(small(name), budget=Budget(steps=2))
    before = detector._net(detector._prepare(data))
    for step in range(data.steps):
        num, cat = data.num.clone(), data.cat.clone()
        num[:, step] += 5.0
        cat[:, step] = 2 + (cat[:, step] - 1) % 7  # another known id
        after = detector._net(detector._prepare(replace(data, num=num, cat=cat)))
        pairs = [(before.num, after.num), *zip(before.logits, after.logits, strict=True)]
        for one, other in pairs:
            torch.testing.assert_close(one[:, : step + 1], other[:, : step + 1])
            if step + 1 < data.steps and one.shape[2]:
                assert not torch.allclose(one[:, step + 1], other[:, step + 1])


def test_a_forbidden_step_has_the_highest_score_of_its_window() -> None:
    data, detector = sample("GRAMMAR"), learned("GRAMMAR")
    pairs = torch.stack([data.train.cat[:, :-1, 0], data.train.cat[:, 1:, 0]], dim=-1)
    allowed = {tuple(pair) for pair in pairs.flatten(0, 1).tolist()}
    broken = data.anomalous[:100]  # one forbidden step each, by construction of the source
    steps = detector.score(broken, explain="full").step
    assert steps is not None
    hits = 0
    for ids, scores in zip(broken.cat[:, :, 0].tolist(), steps, strict=True):
        forbidden = [t for t in range(1, 30) if (ids[t - 1], ids[t]) not in allowed]
        hits += int(scores.argmax()) in forbidden
    assert hits > 90


def test_the_true_next_event_is_among_the_top_three() -> None:
    data, detector = sample("GRAMMAR"), learned("GRAMMAR")
    windows = data.normal[:100]
    logits = detector._net(detector._prepare(windows)).logits[0]
    top = logits.topk(3, dim=-1).indices
    hit = (top == windows.cat).any(dim=-1)
    assert float(hit[:, 1:].float().mean()) > 0.96  # the chain has three successors per id
    assert float(hit[:, 0].float().mean()) < 0.5  # nothing announces the first


def test_exchanged_lags_score_higher_although_each_value_is_in_range() -> None:
    data, detector = sample("WAVES").normal[:200], learned("WAVES")
    swapped = replace(data, num=data.num[:, :, [1, 0, 2, 3, 4, 5]])
    assert ranking(detector.score(data).score, detector.score(swapped).score) > 0.9


def test_an_event_sequence_that_breaks_off_early_scores_higher() -> None:
    data = sample("SESSIONS")
    detector = FutureFramePrediction(hidden=32).fit(data.train, budget=Budget(steps=150))
    assert detector._ends
    keep = data.normal.mask & (torch.arange(data.normal.steps) < 4)
    brief = replace(data.normal, mask=keep)
    scores, full = detector.score(data.normal).score, detector.score(brief, explain="full")
    assert ranking(scores, full.score) > 0.9
    assert full.step is not None
    assert (full.step.argmax(dim=1) == 3).float().mean() > 0.8  # told at the last event


@pytest.mark.parametrize(
    ("ends", "name", "expected"),
    [
        ("auto", "events", False),
        ("yes", "events", True),
        ("yes", "series", False),
    ],
)
def test_ends_are_predicted_of_event_sequences_only(ends: str, name: str, expected: bool) -> None:
    data = small(name)  # half of the windows are full
    detector = FutureFramePrediction(ends=ends, hidden=4).fit(data, budget=Budget(steps=1))
    assert detector._ends == expected


def test_an_untrained_network_repeats_a_steady_last_value() -> None:
    walk = torch.randn(200, 20, 1, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)
    noise = torch.randn(200, 20, 1, generator=torch.Generator().manual_seed(1))
    data = as_batch(torch.cat([walk, noise, -walk.diff(dim=1, prepend=walk[:, :1])], dim=2))
    share = _persistence(data)
    assert share[0] > 0.9
    assert share[1] < 0.05
    assert ((share >= 0) & (share <= 1)).all()
    net = FutureFrameNet(3, (), 20, 4, 0.0)
    torch.nn.init.zeros_(net.head.linear.weight)
    torch.nn.init.zeros_(net.head.linear.bias)
    net.persistence.copy_(torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(net(data).num[:, 1:], data.num[:, :-1] * net.persistence)


def test_losses_of_changes_by_hand() -> None:
    data = as_batch([[[0.0, 0.0], [2.0, 1.0], [1.0, 3.0]]])
    guess = Guess(torch.tensor([[[5.0, 0.0], [6.0, 0.0], [7.0, 3.0]]]), (), torch.zeros(0))
    # sizes of changes: true 2, 1 and 1, 2; said 1, 1 and 0, 3
    assert float(gradient_loss(guess, data)) == pytest.approx((1 + 0 + 1 + 1) / 2)
    # products: true 2 * 1 and -1 * 2; said 1 * 0 and 1 * 3
    assert float(co_movement_loss(guess, data, ((0, 1),))) == pytest.approx((2 + 5) / 2)


def test_counts_and_inputs_are_of_the_past() -> None:
    counts = _counts_before(torch.tensor([[2, 3, 2, 2]]), 5)
    assert counts[0].expm1().round().tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 2, 1, 0],
    ]
    assert delayed(torch.tensor([[[1.0], [2.0]]]), torch.tensor([9.0])).flatten().tolist() == [9, 1]


def test_misplaced_steps_stay_in_their_window() -> None:
    data = small("sequence", windows=200)
    moved = misplaced(data, 0.3, torch.Generator().manual_seed(0))
    assert not torch.equal(moved.cat, data.cat)
    assert torch.equal(moved.cat.sort(dim=1).values, data.cat.sort(dim=1).values)
    assert not moved.cat[~data.mask].any()
    same = misplaced(data, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(same.cat, data.cat)
