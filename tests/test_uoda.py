"""UODA: an encoder that stays fixed, codes that stay apart, predictions from the past alone."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectors import Budget
from detectors.batch import NEW, events
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.batches import split
from detectors.loops.stage import Run
from detectors.uoda import CodePredictor, Uoda, step_scores

SMALL: dict[str, Any] = {"learning_rate": 1e-2}


@cache
def learned() -> Uoda:
    """A detector of WAVES that others may read and not change."""
    return Uoda(**SMALL).fit(sample("WAVES").train, budget=Budget(steps=200))


def coder(detector: Uoda) -> list[Tensor]:
    return [tensor.clone() for tensor in detector._net.coder.state_dict().values()]


def test_the_encoder_is_fixed_once_codes_are_predicted() -> None:
    data = small("series", windows=200)
    detector = Uoda().fit(data, budget=Budget(steps=20))
    before, predictor = coder(detector), detector._net.predictor.head.weight.clone()
    run = Run(1, Budget(steps=10), detector.report)
    detector._train(detector.config, run, *split(detector._prepare(data)))
    detector.partial_fit(data)
    assert all(torch.equal(a, b) for a, b in zip(before, coder(detector), strict=True))
    assert not torch.equal(predictor, detector._net.predictor.head.weight)


def test_codes_do_not_become_constant() -> None:
    data = learned()._prepare(sample("WAVES").normal)
    codes = learned()._net.coder.encoder(learned()._input(data)).flatten(0, 1)
    assert float(codes.std(dim=0).median()) > 0.02


def test_a_code_is_predicted_from_earlier_ones_alone() -> None:
    torch.manual_seed(0)
    net, codes = CodePredictor(4, 8), torch.randn(1, 6, 4)
    mask = torch.ones(1, 6, dtype=torch.bool)
    before = net(codes, mask)
    for step in range(6):
        changed = codes.clone()
        changed[:, step] += 1.0
        after = net(changed, mask)
        assert torch.equal(after[:, : step + 1], before[:, : step + 1])
        assert not torch.isclose(after[:, step + 1 :], before[:, step + 1 :]).all() or step == 5


def test_windows_out_of_order_score_higher() -> None:
    data = sample("WAVES").normal[:200]
    normal = learned().score(data).score
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    for moved in (order, torch.arange(48).flip(0)):
        scores = learned().score(replace(data, num=data.num[:, moved])).score
        assert ranking(normal, scores) > 0.9


def test_early_steps_are_measured_by_what_is_usual_there() -> None:
    steps = learned().score(sample("WAVES").normal, explain="full").step
    assert steps is not None
    medians = steps.median(dim=0).values
    assert float(learned()._ease[0] / learned()._ease[-1]) > 3
    assert float(medians.max() / medians.min()) < 3


def test_codes_and_fields_weigh_alike() -> None:
    errors = torch.tensor([[[4.0, 1.0, 2.0, 3.0]]])
    assert step_scores(errors).tolist() == [[3.0]]


def test_the_order_of_events_of_many_ids_is_learned() -> None:
    """All ids are equally frequent, so that nothing but their order can be wrong."""
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 150, size=(1000, 1)) + np.arange(12)
    usual, moved = 2 + steps % 150, 2 + rng.permuted(steps[900:], axis=1) % 150
    train, normal, odd = (events(ids, vocab=200) for ids in (usual[:900], usual[900:], moved))
    detector = Uoda(**SMALL).fit(train, budget=Budget(steps=300))
    low, high = (detector.score(data).score for data in (normal, odd))
    assert ranking(low, high) > 0.9
    new = replace(normal, cat=normal.cat.clone())
    new.cat[:, 6] = NEW
    assert ranking(low, detector.score(new).score) > 0.99


def test_anomalous_windows_score_above_normal_ones() -> None:
    data, detector = sample("WAVES"), learned()
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.8
