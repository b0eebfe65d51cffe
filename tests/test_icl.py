"""Internal contrast: parts and rests, losses by hand, shares of columns in any order."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.icl import InternalContrast, part_width
from detectors.nets.contrast import Embedding, PartsContrast
from schemas.errors import DataError

SMALL: dict[str, Any] = {"batch": 64, "learning_rate": 5e-3, "orders": 2}


@cache
def learned() -> InternalContrast:
    """A detector of SUBSPACE that others may read and not change."""
    return InternalContrast(**SMALL).fit(sample("SUBSPACE").train, budget=Budget(steps=200))


@torch.no_grad()
def test_losses_by_hand() -> None:
    torch.manual_seed(0)
    net, rows = PartsContrast(2, 5, 2, 8, 4, temperature=0.3), torch.randn(6, 5)
    found = net(rows)
    assert found.shape == (2, 6, 4)

    def embed(which: Embedding, member: int, inputs: Tensor) -> Tensor:
        layers = [
            {n: t[member] for n, t in layer.state_dict().items()} for layer in which.children()
        ]
        hidden = inputs @ layers[0]["weight"] + layers[0]["bias"][0]
        hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
        vector = hidden @ layers[1]["weight"] + layers[1]["bias"][0]
        return torch.div(vector, vector.norm())

    for member in range(2):
        for row in range(6):
            x = rows[row][net.order[member]]
            parts = [embed(net.part_net, member, x[j : j + 2]) for j in range(4)]
            for j in range(4):
                rest = embed(net.rest_net, member, torch.cat([x[:j], x[j + 2 :]]))
                cosines = torch.stack([rest @ part for part in parts]) / 0.3
                expected = torch.logsumexp(cosines, dim=0) - cosines[j]
                torch.testing.assert_close(found[member, row, j], expected)


def test_wide_parts_leave_at_most_151_of_them() -> None:
    widths = {columns: part_width(columns) for columns in (2, 40, 41, 160, 161, 500)}
    assert widths == {2: 2, 40: 2, 41: 10, 160: 10, 161: 11, 500: 350}


@pytest.mark.parametrize("features", [2, 3, 45, 170])
def test_records_of_few_and_of_many_columns_are_taken(features: int) -> None:
    rng = np.random.default_rng(0)
    detector = InternalContrast(batch=16).fit(
        rng.normal(size=(40, features)), budget=Budget(steps=2)
    )
    scores = detector.score(rng.normal(size=(5, features)), explain="full")
    assert bool(scores.score.isfinite().all())
    assert scores.feature is not None
    assert scores.feature.shape == (5, 1, features)


def test_a_single_column_has_no_parts_to_contrast() -> None:
    with pytest.raises(DataError, match="2 columns"):
        InternalContrast().fit(np.zeros((10, 1)))


def test_independent_columns_give_nothing_to_learn() -> None:
    rng = np.random.default_rng(0)
    detector = InternalContrast(**SMALL).fit(rng.normal(size=(1000, 6)), budget=Budget(steps=100))
    apart = detector.score(rng.normal(size=(300, 6))).score
    assert float(apart.mean()) > 0.5 * np.log(5)  # guessing among five parts costs log 5


def test_a_record_whose_halves_come_from_two_records_scores_higher() -> None:
    normal = sample("SUBSPACE").normal.num[:, 0]
    mixed = torch.cat([normal[:250, :8], normal[250:, 8:]], dim=1)
    detector = learned()
    assert ranking(detector.score(normal).score, detector.score(mixed).score) > 0.8


def test_points_off_the_subspace_score_above_normal_ones() -> None:
    data, detector = sample("SUBSPACE"), learned()
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.8


def test_orders_are_stored() -> None:
    detector = InternalContrast(**SMALL).fit(small("record"), budget=Budget(steps=2))
    assert "net.order" in detector.tensors()
