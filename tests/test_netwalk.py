"""NetWalk: entities that meet come close, and edges between communities stand out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors import Budget, WindowBatch
from detectors.batch import NEW
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.netwalk import NetWalk, VertexEmbedding
from schemas.errors import DataError

STEPS = Budget(steps=300)


def fitted(**settings: object) -> NetWalk:
    detector = NetWalk(seed=0, **settings)  # type: ignore[arg-type]
    return detector.fit(sample("PATHS").train, budget=STEPS)


@pytest.fixture(scope="module")
def walker() -> NetWalk:
    return fitted()


def test_edges_across_communities_score_higher(walker: NetWalk) -> None:
    data = sample("PATHS")
    normal, odd = (walker.score(x).score for x in (data.normal, data.anomalous))
    assert ranking(normal, odd) > 0.9


def test_codes_do_not_fall_on_one_point(walker: NetWalk) -> None:
    codes = walker._net.code.weight[walker._values.known]
    assert torch.pdist(codes).mean() > 0.1
    edges = walker._net.edges(walker._values.rows(walker._memory))
    assert edges.std(dim=0).mean() > 0.01


def test_without_reconstruction_codes_fall_together(walker: NetWalk) -> None:
    loose = fitted(gamma=1e-6)
    spread = [torch.pdist(x._net.code.weight[x._values.known]).mean() for x in (loose, walker)]
    assert spread[0] < 0.5 * spread[1]


def test_both_ends_of_the_edge_that_does_not_fit_are_blamed(walker: NetWalk) -> None:
    data = sample("PATHS").anomalous
    # users of one community on a host and a service of the other
    community = (data.cat[:, 0] - 2) // 20
    lone = data[(community[:, 0] != community[:, 1]) & (community[:, 1] == community[:, 2])]
    scores = walker.score(lone, explain="full")
    assert scores.feature is not None
    assert int(scores.feature[:, 0].mean(dim=0).argmax()) == 0


def test_an_edge_is_the_product_of_its_ends() -> None:
    net = VertexEmbedding(6, 3, 4)
    z = net.code.weight
    edges = net.edges(torch.tensor([[0, 3, 5]]))
    torch.testing.assert_close(edges[0], torch.stack([z[0] * z[3], z[0] * z[5], z[3] * z[5]]))


def test_memory_is_bounded_and_what_is_learned_later_counts(walker: NetWalk) -> None:
    data = sample("PATHS")
    known = fitted(memory=64)
    assert len(known._memory) == 64
    before = ranking(known.score(data.normal).score, known.score(data.anomalous).score)
    for _ in range(5):
        known.partial_fit(data.anomalous, budget=Budget(steps=200))
    assert len(known._memory) == 64
    after = ranking(known.score(data.normal).score, known.score(data.anomalous).score)
    assert after < before


def test_new_values_score_above_known_ones(walker: NetWalk) -> None:
    normal = sample("PATHS").normal
    cat = normal.cat.clone()
    cat[:, :, 1] = NEW
    new = WindowBatch(normal.num, cat, normal.mask, normal.vocab)
    assert (walker.score(new).score > walker.score(normal).score).all()


def test_frequencies_forget_beyond_the_horizon() -> None:
    data = sample("PATHS").train[:200]
    detector = NetWalk(seed=0, horizon=100).fit(data, budget=Budget(steps=1))
    detector.partial_fit(data[:50], budget=Budget(steps=1))
    # training sees 45 of the latest 50 events of three fields
    assert float(detector._counts.sum()) == pytest.approx(3 * 145)


def test_one_field_is_no_network() -> None:
    ids = torch.from_numpy(np.random.default_rng(0).integers(2, 9, (50, 1, 1)))
    mask = torch.ones(50, 1, dtype=torch.bool)
    data = WindowBatch(torch.zeros(50, 1, 0), ids, mask, (9,))
    with pytest.raises(DataError, match="needs at least 2, got 1"):
        NetWalk(seed=0).fit(data)
