"""E3Outlier: the three scores by hand, and contaminated data that nobody labelled."""

import math
from functools import cache
from typing import Any

import pytest
import torch

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.e3outlier import E3Outlier, undecided


@cache
def learned() -> E3Outlier:
    """A detector of WAVES of which 5 % are anomalies, that others may read and not change."""
    data = sample("WAVES")
    train = data.train.num.clone()
    train[::20] = data.anomalous.num[400:]
    return E3Outlier(hidden=16, batch=32).fit(train, budget=Budget(steps=60))


def test_anomalies_among_the_held_out_windows_do_not_keep_training_going() -> None:
    data = sample("WAVES")
    train = data.train.num[:600].clone()
    train[::20] = data.anomalous.num[:30]
    settings: dict[str, Any] = {"hidden": 16, "batch": 32, "orders": 1, "epochs": 60}
    detector = E3Outlier(learning_rate=1e-2, **settings).fit(train)
    assert detector.report.stopped == "early stop"
    assert len(detector.report.losses) < 30


def test_scores_of_sure_and_of_undecided_answers() -> None:
    sure = torch.eye(4).clamp(min=1e-30).log().unsqueeze(0)
    lost = torch.full((1, 4, 4), 0.25).log()
    wrong = sure.flip(1)
    for form, expected in {
        "entropy": (0.0, math.log(4), 0.0),
        "true": (0.0, 0.75, 1.0),
        "largest": (0.0, 0.75, 0.0),
    }.items():
        found = torch.cat([undecided(answers, form) for answers in (sure, lost, wrong)])  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_entropies_stay_between_zero_and_that_of_guessing() -> None:
    data = sample("WAVES")
    for windows in (data.normal.num, data.anomalous.num, 100 * data.anomalous.num):
        scores = learned().score(windows).score
        assert 0 <= float(scores.min()) <= float(scores.max()) <= math.log(8) + 1e-5


@pytest.mark.parametrize("form", ["entropy", "true", "largest"])
def test_contaminated_data_still_rank_anomalies_higher(form: str) -> None:
    data, shape = sample("WAVES"), learned().shape
    assert shape is not None
    detector = E3Outlier(hidden=16, form=form)
    detector.take_over(shape, learned().tensors())
    normal, anomalous = data.normal, data.anomalous[:400]
    assert ranking(detector.score(normal).score, detector.score(anomalous).score) > 0.6
