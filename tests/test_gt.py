"""Transformations by hand, answers better than chance, Dirichlet distributions recovered."""

from dataclasses import replace
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
from detectors.gt import LEAST_LOG, GeometricTransformations
from detectors.loops.dirichlet import fit_dirichlet
from detectors.nets.transforms import (
    RecordClassifier,
    TimeClassifier,
    TimeTransforms,
    exchanged_ids,
)
from detectors.transformed import SURE


def learned(form: str = "log") -> GeometricTransformations:
    """A detector of WAVES; all forms of the score have the same network."""
    other = GeometricTransformations(form=form, hidden=16)
    shape = trained().shape
    assert shape is not None
    tensors = trained().tensors()
    if form != "dirichlet":
        tensors.pop("alpha")
    other.take_over(shape, tensors)
    return other


@cache
def trained() -> GeometricTransformations:
    detector = GeometricTransformations(form="dirichlet", hidden=16, batch=32)
    return detector.fit(sample("WAVES").train, budget=Budget(steps=60))


def one_window(*values: float) -> tuple[Tensor, Tensor]:
    steps = torch.tensor(values).unsqueeze(-1).unsqueeze(0)
    return steps, torch.ones(1, len(values), dtype=torch.bool)


def test_segments_change_places_and_windows_are_reversed() -> None:
    found = TimeTransforms(1, 2)(*one_window(0, 1, 2, 3, 4, 5, 6, 7))[0, :, :, 0]
    assert found.tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 4, 5, 2, 3, 6, 7],
        [7, 6, 5, 4, 3, 2, 1, 0],
        [7, 6, 3, 2, 5, 4, 1, 0],
    ]


def test_halves_of_the_columns_are_exchanged() -> None:
    steps = torch.arange(8.0).view(1, 2, 4)
    found = TimeTransforms(4, 1)(steps, torch.ones(1, 2, dtype=torch.bool))[0]
    assert found[0].tolist() == steps[0].tolist()
    assert found[1].tolist() == [[2, 3, 0, 1], [6, 7, 4, 5]]
    assert len(found) == 4


def test_ids_stand_for_others_that_are_about_as_frequent() -> None:
    order = exchanged_ids(torch.tensor([90, 5, 3, 0, 7, 1, 4]))
    columns = torch.eye(6)  # of the ids 1 .. 6
    ids = 1 + columns[:, order].argmax(dim=1)
    assert ids.tolist() == [1, 6, 3, 5, 2, 4]


def test_bare_events_exchange_ids_and_nothing_else_does() -> None:
    for name, exchanged in (("events", True), ("sequence", False), ("series", False)):
        detector = GeometricTransformations(orders=1).fit(small(name), budget=Budget(steps=2))
        net = detector._net
        assert isinstance(net, TimeClassifier)
        columns = net.transforms.column
        width = detector._input.columns
        halves = torch.arange(width).roll(width // 2)
        assert torch.equal(columns[0], torch.arange(width))
        assert torch.equal(columns[1], halves) != exchanged
        assert torch.equal(columns[1], columns[3])
        assert torch.equal(columns[1].sort().values, torch.arange(width))


def test_shuffled_events_are_told_from_a_grammar() -> None:
    data = sample("GRAMMAR")
    detector = GeometricTransformations(hidden=16, batch=32).fit(
        data.train, budget=Budget(steps=300)
    )
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    shuffled = replace(data.normal, cat=data.normal.cat[:, order])
    assert ranking(*(detector.score(part).score for part in (data.normal, shuffled))) > 0.9


def test_only_real_steps_are_moved() -> None:
    steps, mask = one_window(0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0)
    mask[0, 8:] = False
    padded = TimeTransforms(1, 8)(steps, mask)
    whole = TimeTransforms(1, 8)(steps[:, :8], mask[:, :8])
    assert torch.equal(padded[:, :, :8], whole)
    assert not padded[:, :, 8:].any()


def test_all_transformations_differ_and_lose_nothing() -> None:
    steps = torch.randn(1, 16, 3, generator=torch.Generator().manual_seed(0))
    found = TimeTransforms(3, 8)(steps, torch.ones(1, 16, dtype=torch.bool))[0]
    assert len(found) == 32
    assert len({tuple(version.flatten().tolist()) for version in found}) == 32
    values = steps.flatten().sort().values
    assert all(torch.equal(version.flatten().sort().values, values) for version in found)


def test_records_keep_their_distances_in_every_map() -> None:
    torch.manual_seed(0)
    net, rows = RecordClassifier(6, 8, 5), torch.randn(2, 6)
    shown = torch.einsum("bd,nde->bne", rows, net.turn) + net.shift
    gaps = (shown[0] - shown[1]).norm(dim=-1)
    torch.testing.assert_close(gaps, (rows[0] - rows[1]).norm().expand(5))


def test_the_true_transformation_is_told_better_than_by_chance() -> None:
    data = learned()._prepare(sample("WAVES").normal)
    answers = learned()._log_answers(data.num, data.mask).argmax(dim=-1)
    versions = answers.shape[1]
    right = (answers == torch.arange(versions)).float().mean()
    assert float(right) > 4 / versions


def test_the_order_of_the_transformations_does_not_matter() -> None:
    detector, data = learned("simple"), sample("WAVES").normal[:50]
    prepared = detector._prepare(data)
    answers = detector._log_answers(prepared.num, prepared.mask).exp()
    total = sum(answers[:, j, j] for j in reversed(range(answers.shape[1])))
    torch.testing.assert_close(detector.score(data).score, 1 - total / answers.shape[1])


def ranks(scores: Tensor) -> Tensor:
    return scores.argsort().argsort().double()


@pytest.mark.parametrize("form", ["log", "simple", "dirichlet"])
def test_all_forms_of_the_score_agree_on_the_order_and_find_anomalies(form: str) -> None:
    data = sample("WAVES")
    both = torch.cat([data.normal.num, data.anomalous.num])
    scores, simple = learned(form).score(both).score, learned("simple").score(both).score
    assert float(np.corrcoef(ranks(scores), ranks(simple))[0, 1]) > 0.6
    assert ranking(scores[:500], scores[500:]) > 0.65


def test_training_ends_soon_after_the_answers_are_sure() -> None:
    data = small("record", windows=400)
    detector = GeometricTransformations(maps=2, batch=32, epochs=200, learning_rate=1e-2).fit(data)
    assert detector.report.stopped == "early stop"
    assert len(detector.report.losses) < 60
    late = detector._prepare(data[360:])
    assert float(detector._held_out_loss(late).mean()) == pytest.approx(SURE, rel=0.1)


def test_known_dirichlet_distributions_are_recovered() -> None:
    true = np.array([[3.0, 1.0, 0.5, 7.0], [0.3, 0.3, 4.0, 1.0]])
    rng = np.random.default_rng(0)
    draws = np.stack([rng.dirichlet(alpha, size=5000) for alpha in true], axis=1)
    shares = torch.from_numpy(draws).clamp(min=1e-12)
    found = fit_dirichlet(shares.mean(dim=0), shares.log().mean(dim=0))
    torch.testing.assert_close(found, torch.from_numpy(true), rtol=0.1, atol=0.0)


def test_the_distributions_are_those_of_all_training_windows() -> None:
    data = small("record", windows=60)
    detector = GeometricTransformations(maps=3, batch=2).fit(data, budget=Budget(steps=2))
    early = detector._prepare(data)[:54]
    logs = detector._log_answers(early.num, early.mask).clamp(min=LEAST_LOG).double()
    expected = fit_dirichlet(logs.exp().mean(dim=0), logs.mean(dim=0)).float()
    torch.testing.assert_close(detector._alpha, expected, rtol=1e-3, atol=1e-5)


def test_equal_answers_have_a_distribution_too() -> None:
    same = torch.full((2, 3), 1 / 3).double()
    found = fit_dirichlet(same, same.log())
    assert bool(found.isfinite().all())


def test_alpha_is_stored_where_it_is_needed() -> None:
    data, budget = small("record"), Budget(steps=2)
    settings: dict[str, Any] = {"maps": 3}
    for form, needed in (("log", False), ("dirichlet", True)):
        detector = GeometricTransformations(form=form, **settings).fit(data, budget=budget)
        assert ("alpha" in detector.tensors()) == needed
