"""Ordinal regression: the loss by its formula, sets by their shares, labels that overrule them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detectors import Budget, FitReport
from detectors.batch import WindowBatch
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import join, small
from detectors.loops.neighbours import nearest_in_samples
from detectors.loops.ordinal import (
    PseudoLabels,
    mean_rank,
    ordinal_loss,
    overlap,
    pseudo_labels,
    regress,
)
from detectors.loops.stage import Run, Stage, Training
from detectors.sdor import KEPT, OrdinalRegression

SMALL: dict[str, Any] = {"epochs": 4}


def contaminated() -> WindowBatch:
    """CLUSTERS with five percent of its anomalies."""
    data = sample("CLUSTERS")
    return join([data.train[:1900], data.anomalous[:100]])


@cache
def learned(rounds: int) -> OrdinalRegression:
    """A detector that others may read and not change."""
    detector = OrdinalRegression(rounds=rounds, **SMALL)
    return detector.fit(contaminated(), budget=Budget(steps=800))


def test_the_loss_is_the_absolute_error() -> None:
    scores, value = torch.tensor([0.25, 3.0, -1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert ordinal_loss(scores, value).tolist() == [0.25, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_planted_anomalies_rank_high_after_every_round(rounds: int) -> None:
    data, detector = sample("CLUSTERS"), learned(rounds)
    scores = detector.score(data.normal).score
    assert ranking(scores, detector.score(data.anomalous[100:]).score) > 0.85


def test_after_a_round_the_anomalous_set_scores_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def watched(stage: Stage, rows: Tensor, labels: PseudoLabels, net: nn.Module) -> None:
        regress(stage, rows, labels, net)
        given.append((rows, labels))

    monkeypatch.setattr("detectors.sdor.regress", watched)
    detector = OrdinalRegression(rounds=1, **SMALL).fit(contaminated(), budget=Budget(steps=800))
    ((rows, labels),) = given
    assert int(labels.anomalous.sum()) == 100
    assert int(labels.normal.sum()) == 400
    scores = detector._rank(rows)
    high, low = scores[labels.anomalous].mean(), scores[labels.normal].mean()
    assert float(high) > 0.5 > float(low)


@pytest.mark.parametrize("rounds", [1, 2])
def test_every_round_of_a_fit_has_all_its_epochs(rounds: int) -> None:
    settings: dict[str, Any] = {"rounds": rounds, "pretrain_epochs": 3, "steps_per_epoch": 2}
    detector = OrdinalRegression(epochs=6, **settings).fit(contaminated())
    assert len(detector.report.losses) == 3 + 6 * rounds
    detector.partial_fit(contaminated()[:50])
    assert len(detector.report.losses) == 1


def test_pseudo_labels_are_the_ends_of_the_ranking() -> None:
    scores = torch.tensor([5.0, 1.0, 9.0, 3.0, 7.0, 2.0, 8.0, 0.0, 4.0, 6.0])
    found = pseudo_labels(scores, torch.full((10,), -1), 0.1, 0.2)
    assert found.anomalous.nonzero().flatten().tolist() == [2]
    assert found.normal.nonzero().flatten().tolist() == [1, 7]


def test_people_overrule_the_ranking() -> None:
    scores = torch.arange(10.0)
    marks = torch.tensor([1, -1, -1, -1, -1, 1, -1, -1, -1, 0])
    found = pseudo_labels(scores, marks, 0.1, 0.2)
    assert found.anomalous.nonzero().flatten().tolist() == [0, 5]
    assert found.normal.nonzero().flatten().tolist() == [1, 9]


def test_labelled_normals_are_drawn_down() -> None:
    """Three blobs, of which the ranking calls the smallest anomalous, and a person says no."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1000, 4, generator=generator)
    rows[:40] += 6.0
    labels = np.full(1000, -1)
    labels[:40] = 0
    fits = [
        OrdinalRegression(**SMALL).fit(rows, marks, budget=Budget(steps=300))
        for marks in (None, labels)
    ]
    before, after = (float(detector.score(rows[:40]).score.mean()) for detector in fits)
    assert before > 0.5 > after


def test_the_overlap_of_sets_by_hand() -> None:
    one, other = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([0, 1, 1, 1]).bool()
    assert overlap(one, other) == 0.5
    assert overlap(one, one) == 1.0
    assert overlap(~one & one, one & ~one) == 0.0


def test_ranks_are_averaged_and_ties_rank_alike() -> None:
    found = mean_rank([torch.tensor([3.0, 1.0, 1.0]), torch.tensor([10.0, 30.0, 20.0])])
    assert found.tolist() == [1.0, 1.0, 0.5]


def test_isolated_rows_are_far_from_subsamples() -> None:
    data = sample("CLUSTERS")
    rows = torch.cat([data.train.num[:1900, 0], data.anomalous.num[:100, 0]])
    torch.manual_seed(0)
    found = nearest_in_samples(rows)
    assert found.shape == (2000,)
    assert ranking(found[:1900], found[1900:]) > 0.9


def test_a_batch_has_as_many_anomalous_rows_as_normal_ones() -> None:
    rows = torch.arange(100.0).unsqueeze(1)
    labels = pseudo_labels(rows.squeeze(1), torch.full((100,), -1), 0.05, 0.2)
    model, seen = nn.Linear(1, 1), []

    def scorer(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch.squeeze(1))
        scores: torch.Tensor = model(batch).squeeze(1)
        return scores

    settings = Training(epochs=1, steps_per_epoch=5, batch=64)
    regress(Stage(model, settings, Run(0, Budget(), FitReport())), rows, labels, scorer)
    for batch in seen:
        assert int((batch >= 95).sum()) == int((batch < 20).sum()) == 32


def test_self_training_ends_where_nothing_changes_any_more() -> None:
    detector = OrdinalRegression(rounds=100, **SMALL).fit(contaminated(), budget=Budget(steps=6000))
    assert detector.report.stopped != "budget"
    assert len(detector.report.losses) < 20 + 100 * 4


def test_labelled_windows_are_remembered_first() -> None:
    data = small("record", windows=KEPT + 500)
    labels = np.full(len(data), -1)
    labels[-30:] = 0
    detector = OrdinalRegression().fit(data, labels, budget=Budget(steps=2))
    assert len(detector._memory) == KEPT
    assert int((detector._marks == 0).sum()) == 30
