"""Random distance prediction: targets that stay, what is frequent is learned, a filter."""

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from detectors import Budget, WindowBatch, as_batch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.stage import Stage
from detectors.nets.distances import RandomDistances, similarity
from detectors.rdp import RandomDistancePrediction, distance

SMALL: dict[str, Any] = {"trees": 3, "learning_rate": 1e-2}


class Watched(RandomDistancePrediction):
    """Remembers what each round of a fit, or an update, learned from."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: list[tuple[torch.nn.Module, Tensor]] = []

    def _learn(self, stage: Stage, early: WindowBatch, late: WindowBatch, chosen: Tensor) -> None:
        self.seen.append((stage.model, chosen))
        super()._learn(stage, early, late, chosen)


@cache
def spoilt() -> tuple[WindowBatch, Tensor]:
    """SUBSPACE with three percent anomalies in its first 1,500 windows, and where they are."""
    data = sample("SUBSPACE")
    rows, places = data.train.num.clone(), torch.arange(0, 1500, 25)
    rows[places] = data.anomalous.num[: len(places)]
    return as_batch(rows), places


@cache
def learned(rounds: int) -> Watched:
    """A detector of spoilt data, with the same work in each round; not to be changed."""
    detector = Watched(**SMALL, rounds=rounds)
    return detector.fit(spoilt()[0], budget=Budget(steps=200 * rounds))


def still_there(detector: Watched, turn: int) -> float:
    """Share of the anomalies in what the trees learned from."""
    _, chosen = detector.seen[turn]
    return float(torch.isin(chosen, spoilt()[1]).sum()) / (len(spoilt()[1]) * len(chosen))


def test_networks_by_hand() -> None:
    torch.manual_seed(0)
    net, rows = RandomDistances(3, 5, 4), torch.randn(7, 5)
    assert net.learner.bias is not None
    torch.nn.init.normal_(net.learner.bias)
    found = net(rows)
    own = net(rows.expand(3, -1, -1))
    for tree in range(3):
        inner = rows @ net.learner.weight[tree] + net.learner.bias[tree]
        torch.testing.assert_close(found[0][tree], leaky_relu(inner, 0.2))
        torch.testing.assert_close(found[1][tree], leaky_relu(rows @ net.target[tree], 0.25))
    assert torch.equal(found[0], own[0])
    assert torch.equal(found[1], own[1])


def test_distance_and_similarity_by_hand() -> None:
    learned, random = torch.tensor([[1.0, -3.0], [0.0, 0.0]]), torch.tensor([[0.0, -1.0], [2.0, 0]])
    assert distance(learned, random).tolist() == [2.5, 2.0]
    vectors = torch.tensor([[[1.0, -3.0], [2.0, 2.0], [0.0, 0.0]]])
    # of absolute sum 1: (1/4, -3/4), (1/2, 1/2), and nothing to divide
    expected = torch.tensor([[0.0, 0.125 - 0.375, 0.0]])
    torch.testing.assert_close(similarity(vectors), expected)
    longer = vectors * torch.tensor([2.0, 7.0, 1.0]).unsqueeze(1)
    torch.testing.assert_close(similarity(longer), expected)


def test_targets_are_the_same_after_training_updates_and_loading() -> None:
    data, settings = small("record"), {**SMALL, "rounds": 1}
    untrained = RandomDistancePrediction(**settings).fit(data, budget=Budget(steps=0))
    detector = RandomDistancePrediction(**settings).fit(data, budget=Budget(steps=20))
    target, before = detector._net.target.clone(), untrained._net.learner.weight
    assert torch.equal(target, untrained._net.target)
    assert not torch.equal(detector._net.learner.weight, before)
    detector.partial_fit(data)
    again, shape = RandomDistancePrediction(**settings), detector.shape
    assert shape is not None
    again.take_over(shape, detector.tensors())
    assert torch.equal(detector._net.target, target)
    assert torch.equal(again._net.target, target)
    assert not torch.equal(target[0], target[1])


def test_what_is_repeated_scores_lower_than_what_is_not() -> None:
    data = sample("SUBSPACE")
    one, other = data.anomalous.num[0:1], data.anomalous.num[1:2]
    scores = []
    for often, once in ((one, other), (other, one)):
        # none of them is among the latest tenth, which is held out
        rows = torch.cat([often.repeat(60, 1, 1), once, data.train.num])
        detector = RandomDistancePrediction(**SMALL, rounds=1)
        detector.fit(as_batch(rows), budget=Budget(steps=200))
        scores.append(detector.score(as_batch(torch.cat([one, other]))).score)
    assert float(scores[0][0]) < 0.3 * float(scores[0][1])
    assert float(scores[1][1]) < 0.3 * float(scores[1][0])


def test_the_filter_drops_anomalies_far_above_their_share() -> None:
    detector = learned(3)
    assert still_there(detector, 0) == 1.0
    assert still_there(detector, 1) < 0.2  # of all windows, 95 % are
    assert still_there(detector, 2) < 0.1  # and 90 %


def test_every_round_starts_over_on_what_the_last_one_left() -> None:
    detector = learned(3)
    nets, chosen = zip(*detector.seen, strict=True)
    assert len({id(net) for net in nets}) == 3
    assert detector._net is nets[-1]
    assert [tuple(part.shape) for part in chosen] == [(3, 1800), (3, 1710), (3, 1625)]
    assert detector.report.trimmed == 175
    for before, after in pairwise(chosen):
        for tree in range(3):
            assert bool(torch.isin(after[tree], before[tree]).all())
            assert len(after[tree].unique()) == len(after[tree])
    assert not torch.equal(chosen[1][0].sort().values, chosen[1][1].sort().values)


def test_rounds_keep_anomalies_in_the_data_from_being_learned() -> None:
    odd, normal = spoilt()[0][spoilt()[1]], sample("SUBSPACE").normal
    contrast = []
    for rounds in (1, 3):
        scores = [learned(rounds).score(part).score for part in (normal, odd)]
        contrast.append(float(scores[1].median() / scores[0].median()))
    assert contrast[1] > 1.4 * contrast[0]


def test_each_tree_learns_from_a_sample_of_its_own() -> None:
    detector = Watched(**SMALL, sample=20, rounds=1)
    detector.fit(small("record", windows=200), budget=Budget(steps=1))
    chosen = detector.seen[0][1]
    assert chosen.shape == (3, 20)
    assert all(len(set(tree)) == 20 for tree in chosen.tolist())
    assert len({tuple(sorted(tree)) for tree in chosen.tolist()}) == 3
    assert int(chosen.max()) < 180  # the latest tenth is held out


@pytest.mark.parametrize(("steps", "rounds"), [(0, 1), (1, 1), (3, 3)])
def test_a_spent_budget_starts_no_other_round(steps: int, rounds: int) -> None:
    detector = Watched(**SMALL).fit(small("record"), budget=Budget(steps=steps))
    assert len(detector.seen) == rounds
    assert detector.report.stopped == "budget"


def test_an_update_leaves_out_what_scores_highest() -> None:
    detector = Watched(**SMALL).fit(sample("SUBSPACE").train, budget=Budget(steps=300))
    data = sample("SUBSPACE")
    mixed = as_batch(torch.cat([data.anomalous.num[:9], data.normal.num[:191]]))
    net = detector._net
    detector.partial_fit(mixed)
    _, chosen = detector.seen[-1]
    assert detector._net is net
    assert chosen.shape == (3, 171)  # of 180, nine are dropped
    assert int((chosen < 9).sum()) <= 3  # of 27


def test_the_spread_over_trees_comes_with_each_score() -> None:
    data, detector = sample("SUBSPACE"), learned(3)
    normal, odd = detector.score(data.normal), detector.score(data.anomalous)
    rows = detector._rows(detector._prepare(data.normal))
    learned_part, random = detector._net(rows)
    votes = (learned_part - random).square().mean(dim=2)
    assert normal.uncertainty is not None
    assert odd.uncertainty is not None
    torch.testing.assert_close(normal.score, votes.mean(dim=0))
    torch.testing.assert_close(normal.uncertainty, votes.std(dim=0, correction=0))
    assert float(odd.uncertainty.mean()) > 10 * float(normal.uncertainty.mean())


def test_points_off_the_subspace_score_above_normal_ones() -> None:
    data, detector = sample("SUBSPACE"), learned(3)
    unseen = data.anomalous[60:]
    assert ranking(detector.score(data.normal).score, detector.score(unseen).score) > 0.98
