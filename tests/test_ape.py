"""APE: weights above 0, no order among fields, and pairs of values that were never seen."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from detectors.ape import PairwiseEmbedding
from detectors.checks.sources import sample
from detectors.nets.interaction import PairInteraction


@cache
def learned() -> PairwiseEmbedding:
    """A detector that others may read and not change."""
    return PairwiseEmbedding().fit(sample("PATHS").train)


def test_weights_start_at_one_and_stay_above_zero() -> None:
    net = PairInteraction(9, 3, 4, positive=True)
    torch.testing.assert_close(net.weight.detach(), torch.ones(3))
    with torch.no_grad():
        net.raw_weight.fill_(-50.0)
    assert (net.weight >= 0).all()
    assert (learned()._net.weight >= 0).all()
    assert not torch.allclose(learned()._net.weight, torch.ones(3))


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 1, 0], [1, 2, 0]])
def test_the_order_of_the_fields_does_not_matter(order: list[int]) -> None:
    """Given that the weights of the pairs are permuted with them."""
    detector = learned()
    rows = detector._values.rows(sample("PATHS").normal.cat[:50, 0])
    whole = detector._net
    moved = PairInteraction(126, 3, 16, positive=True)
    moved.load_state_dict(whole.state_dict())
    places = {frozenset(pair): at for at, pair in enumerate(whole.pairs.T.tolist())}
    source = [places[frozenset((order[i], order[j]))] for i, j in moved.pairs.T.tolist()]
    with torch.no_grad():
        moved.raw_weight.copy_(whole.raw_weight[source])
        torch.testing.assert_close(moved(rows[:, order]), whole(rows))


def test_an_unseen_pair_of_seen_values_outranks_the_median() -> None:
    data, detector = sample("PATHS"), learned()
    seen = {tuple(pair) for pair in data.train.cat[:, 0, :2].tolist()}
    unseen = torch.tensor([tuple(p) not in seen for p in data.anomalous.cat[:, 0, :2].tolist()])
    assert int(unseen.sum()) > 100
    median = detector.score(data.normal).score.median()
    above = detector.score(data.anomalous[unseen]).score > median
    assert float(above.float().mean()) > 0.95


def test_the_field_of_the_other_community_is_blamed() -> None:
    data = sample("PATHS").anomalous
    other = (data.cat[:, 0] - 2) // 20  # 0 or 1: the one that stands alone is the odd one
    alone = torch.where(other.sum(dim=1) == 1, other.argmax(dim=1), other.argmin(dim=1))
    feature = learned().score(data, explain="full").feature
    assert feature is not None
    assert float((feature[:, 0].argmax(dim=1) == alone).float().mean()) > 0.8
