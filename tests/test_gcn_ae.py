"""Graph autoencoder: entities judged by whom they meet and how, whatever their places."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from detectors import Budget, WindowBatch
from detectors.batch import NEW
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.gcn_ae import MOST, PAIRS, GraphConvolutionalAutoencoder
from detectors.nets.graph import Graphs, smoothing
from schemas.errors import DataError, ShapeError


def window(src: list[int], dst: list[int], amount: list[float]) -> WindowBatch:
    return WindowBatch(
        num=torch.tensor(amount).view(1, -1, 1),
        cat=torch.tensor([src, dst]).T.unsqueeze(0),
        mask=torch.ones(1, len(src), dtype=torch.bool),
        vocab=(9, 9),
    )


@pytest.fixture(scope="module")
def fitted() -> GraphConvolutionalAutoencoder:
    detector = GraphConvolutionalAutoencoder(seed=0, hidden=32)
    return detector.fit(sample("GRAPHS").train, budget=Budget(steps=300))


def test_events_join_the_entities_that_they_name() -> None:
    graphs = Graphs.of(window([2, 3, 2], [2, 2, 4], [1.0, 2.0, 5.0]))
    # places: 0 = source 2, 1 = destination 2, 2 = source 3, 5 = destination 4
    assert graphs.real[0].nonzero().flatten().tolist() == [0, 1, 2, 5]
    assert graphs.place[0].tolist() == [[0, 1], [2, 1], [0, 5]]
    adjacency = graphs.adjacency[0]
    torch.testing.assert_close(adjacency, adjacency.T)
    assert adjacency[0, 1] == adjacency[2, 1] == adjacency[0, 5] == 1.0
    assert adjacency.sum() == 6.0
    assert graphs.features[0, 0, 0] == 3.0  # mean of 1 and 5
    assert graphs.features[0, 1, 0] == 1.5
    assert graphs.features[0, :, 2:].sum(dim=0).tolist() == [2.0, 2.0]


def test_new_entities_are_not_joined_into_one() -> None:
    graphs = Graphs.of(window([NEW, NEW, 2], [2, 3, 2], [1.0, 2.0, 3.0]))
    assert graphs.place[0].tolist() == [[0, 1], [2, 3], [4, 1]]
    assert graphs.adjacency[0, 0].nonzero().flatten().tolist() == [1]
    assert graphs.adjacency[0, 2].nonzero().flatten().tolist() == [3]
    assert graphs.features[0, [0, 2], 0].tolist() == [1.0, 2.0]


@torch.no_grad()
def test_either_error_reaches_its_weight_in_one_of_a_hundred_usual_windows(
    fitted: GraphConvolutionalAutoencoder,
) -> None:
    _, edges, features, graphs = fitted._vertices(fitted._prepare(sample("GRAPHS").normal))
    weights = (1 - fitted.config.alpha, fitted.config.alpha)
    for part, weight in zip((edges, features.sum(dim=2)), weights, strict=True):
        worst = (part * graphs.real).amax(dim=1)
        assert worst.quantile(0.99).item() == pytest.approx(weight, rel=0.25)


def test_large_graphs_are_taken_few_at_a_time_and_too_large_ones_refused() -> None:
    detector = GraphConvolutionalAutoencoder(seed=0).fit(
        window([2, 3], [2, 2], [0.0, 1.0]), budget=Budget(steps=1)
    )
    for device in ("cpu", "cuda"):
        detector.device = device
        for steps in (2, 200, MOST // 2):
            assert detector._at_once(steps) * (2 * steps) ** 2 <= PAIRS
    detector.device = "cpu"
    assert detector._at_once(2) == detector.chunk
    long = MOST // 2 + 1
    large = window([2] * long, [3] * long, [0.0] * long)
    with pytest.raises(DataError, match="graphs of up to 2050 entities, at most 2048 fit"):
        GraphConvolutionalAutoencoder(seed=0).fit(large)
    with pytest.raises(ShapeError, match="at most 2048 fit; shorten the windows"):
        detector.score(large)


def test_smoothing_is_the_normalised_adjacency_with_loops() -> None:
    graphs = Graphs.of(window([2, 3], [2, 2], [0.0, 0.0]))
    real = graphs.real[0]
    loops = graphs.adjacency[0][real][:, real] + torch.eye(3)
    root = loops.sum(dim=1).rsqrt()
    expected = root[:, None] * loops * root
    torch.testing.assert_close(smoothing(graphs)[0][real][:, real], expected)


def test_the_order_of_events_changes_nothing(fitted: GraphConvolutionalAutoencoder) -> None:
    data = sample("GRAPHS").anomalous[:50]
    order = torch.randperm(data.steps, generator=torch.Generator().manual_seed(0))
    turned = dataclasses.replace(
        data, num=data.num[:, order], cat=data.cat[:, order], mask=data.mask[:, order]
    )
    found, before = (fitted.score(x, explain="full") for x in (turned, data))
    torch.testing.assert_close(found.score, before.score)
    for part in ("step", "feature"):
        torch.testing.assert_close(getattr(found, part), getattr(before, part)[:, order])


def test_names_do_not_matter(fitted: GraphConvolutionalAutoencoder) -> None:
    data = sample("GRAPHS").anomalous[:50]
    names = torch.randperm(16, generator=torch.Generator().manual_seed(0)) + 2
    renamed = dataclasses.replace(data, cat=names[data.cat - 2])
    found, before = (fitted.score(x, explain="full") for x in (renamed, data))
    for part in ("score", "step", "feature"):
        torch.testing.assert_close(getattr(found, part), getattr(before, part))


def test_a_host_that_behaves_like_the_other_group_stands_out(
    fitted: GraphConvolutionalAutoencoder,
) -> None:
    data = sample("GRAPHS")
    normal, odd = (fitted.score(x).score for x in (data.normal, data.anomalous))
    assert ranking(normal, odd) > 0.9
    scores = fitted.score(data.anomalous, explain="full")
    assert scores.step is not None
    changed = data.anomalous.cat[:, :, 0] == data.anomalous.cat[:, :1, 0]
    assert scores.step[changed].mean() > 1.5 * scores.step[~changed].mean()


def test_who_meets_the_other_group_stands_out(fitted: GraphConvolutionalAutoencoder) -> None:
    data = sample("GRAPHS").normal
    cat = data.cat.clone()
    cat[:, ::4, 1] = (cat[:, ::4, 1] - 2 + 8) % 16 + 2
    mixed = dataclasses.replace(data, cat=cat)
    assert ranking(fitted.score(data).score, fitted.score(mixed).score) > 0.6


def test_one_field_is_no_graph() -> None:
    data = sample("GRAPHS").train
    lone = WindowBatch(data.num, data.cat[:, :, :1], data.mask, data.vocab[:1])
    with pytest.raises(DataError, match="needs at least 2, got 1"):
        GraphConvolutionalAutoencoder(seed=0).fit(lone)
