"""Deep SVDD: nothing that lets it collapse, a fixed centre, a boundary that keeps its promise."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from detectors import Budget, as_batch
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.attribution import nearest_example
from detectors.loops.one_class import (
    LEAST_COORDINATE,
    Boundary,
    initial_centre,
    squared_distance,
)
from detectors.one_class import NEW_REACH, OneClassEncoder
from detectors.svdd import DeepSvdd

SMALL: dict[str, Any] = {"hidden": 16, "code": 8, "batch": 64}


@pytest.mark.parametrize(("steps", "numbers"), [(1, True), (6, True), (6, False)])
def test_the_encoder_has_no_constant_anywhere(steps: int, numbers: bool) -> None:
    encoder = OneClassEncoder(5, steps, numbers, hidden=16, code=8)
    assert not [name for name, _ in encoder.named_parameters() if "bias" in name]
    mask = torch.ones(3, steps, dtype=torch.bool)
    assert not encoder(torch.zeros(3, steps, 5), mask).any()


@pytest.mark.parametrize("name", ["record", "series", "events"])
def test_codes_of_different_windows_differ_after_long_training(name: str) -> None:
    data = small(name, windows=200)
    detector = DeepSvdd(**SMALL, epochs=60).fit(data)
    assert detector.report.stopped != "budget"
    codes = detector._codes(detector._prepare(data))
    distances = squared_distance(codes, detector._centre)
    assert float(codes.std(dim=0).max()) > 1e-3
    assert float(distances.max()) > 2 * float(distances.median()) > 0


def test_the_centre_is_the_mean_code_kept_off_zero() -> None:
    codes = torch.tensor([[1.0, 0.04, -0.04, -3.0], [2.0, 0.0, 0.0, -1.0]])
    expected = torch.tensor([1.5, LEAST_COORDINATE, -LEAST_COORDINATE, -2.0])
    assert torch.equal(initial_centre(codes), expected)
    assert float(initial_centre(torch.zeros(5, 3)).abs().min()) == pytest.approx(LEAST_COORDINATE)


def test_the_centre_stays_while_codes_are_drawn_to_it() -> None:
    data = sample("SUBSPACE")
    # as much pre-training, and then little or much training
    first, detector = (
        DeepSvdd(**SMALL, pretrain_epochs=2, epochs=epochs).fit(data.train) for epochs in (1, 20)
    )
    centre, before = detector._centre.clone(), detector.score(data.normal).score.mean()
    assert torch.equal(first._centre, centre)
    assert float(centre.abs().min()) >= 0.1 * (1 - 1e-6)
    assert float(before) < 0.7 * float(first.score(data.normal).score.mean())
    assert detector.report.losses[-1] < 0.5 * detector.report.losses[0]
    detector.partial_fit(data.train)
    assert torch.equal(detector._centre, centre)
    assert float(detector.score(data.normal).score.mean()) < float(before)
    drawn_in = detector.report.losses
    assert drawn_in[-1] < drawn_in[0]


def test_the_typical_record_is_not_anomalous() -> None:
    data = sample("SUBSPACE")
    detector = DeepSvdd(**SMALL).fit(data.train, budget=Budget(steps=300))
    median = as_batch(data.train.num[:, 0].median(dim=0).values.unsqueeze(0))
    usual = detector.score(data.normal).score.quantile(0.95)
    assert float(detector.score(median).score) < float(usual)


@pytest.mark.parametrize("nu", [0.05, 0.3])
def test_the_soft_boundary_leaves_a_share_outside(nu: float) -> None:
    data = sample("SUBSPACE").train
    detector = DeepSvdd(objective="soft-boundary", nu=nu, **SMALL)
    detector.fit(data, budget=Budget(steps=100))
    outside = float((detector.score(data).score > 0).float().mean())
    assert outside == pytest.approx(nu, abs=0.03)


def test_the_radius_and_its_loss_by_hand() -> None:
    boundary = Boundary(0.2, torch.zeros(()))
    distances = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert boundary.loss(distances).tolist() == [25.0, 5.0, 20.0, 10.0, 15.0]
    boundary.update(distances)
    assert float(boundary.radius) == 5.0  # of five, one may be outside: none lies beyond the fifth
    boundary.radius = torch.tensor(3.0)
    assert boundary.loss(distances).tolist() == [13.0, 3.0, 8.0, 3.0, 3.0]


def test_inputs_lie_between_zero_and_one_where_the_fit_was() -> None:
    data = small("series")
    detector = DeepSvdd(**SMALL).fit(data, budget=Budget(steps=2))
    columns = detector._columns(detector._prepare(data))[data.mask]
    torch.testing.assert_close(columns.amin(dim=0), torch.zeros(4))
    torch.testing.assert_close(columns.amax(dim=0), torch.ones(4))
    beyond = detector._columns(detector._prepare(as_batch(np.full((1, 6, 4), 50.0))))
    assert float(beyond.min()) > 1  # not clipped: distance from the usual must stay visible


def test_a_new_value_is_embedded_further_out_than_known_ones() -> None:
    detector = DeepSvdd(**SMALL).fit(small("events"), budget=Budget(steps=20))
    lengths = next(iter(detector._reader.parameters())).norm(dim=1)  # type: ignore[union-attr]
    assert float(lengths[1] / lengths[2:].mean()) == pytest.approx(NEW_REACH, rel=1e-3)


def test_explanations_start_at_a_window_of_the_fit() -> None:
    data = small("record", windows=300)
    detector = DeepSvdd(**SMALL).fit(data, budget=Budget(steps=20))
    columns = detector._columns(detector._prepare(data))
    nearest = nearest_example(columns, detector._examples)
    assert (nearest == columns).all(dim=(1, 2)).sum() == len(detector._examples) == 256
    shares = detector.score(data, explain="full").feature
    assert shares is not None
    assert not shares[(nearest == columns).all(dim=(1, 2))].any()


def test_scores_grow_along_every_ray_out_of_the_data() -> None:
    data = sample("SUBSPACE")
    detector = DeepSvdd(**SMALL).fit(data.train, budget=Budget(steps=300))
    direction = data.anomalous.num[:20, 0] / data.anomalous.num[:20, 0].norm(dim=1, keepdim=True)
    means = [detector.score(as_batch(size * direction)).score.mean() for size in (4, 8, 16, 32)]
    assert all(later > earlier for earlier, later in itertools.pairwise(means))
