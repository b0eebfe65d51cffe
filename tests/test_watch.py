"""Drift: found soon, dated rightly, asked about once there is enough to learn from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.watch import Watcher
from detectors.model import Model
from detectors.windows import Layout, WindowArrays
from schemas.config import Drift, Duration

SECOND = 10**9


def windows(level: NDArray[np.float64], seed: int) -> WindowArrays:
    """One window a second of one number, whose mean follows ``level``."""
    rng = np.random.default_rng(seed)
    n = len(level)
    num = rng.normal(level[:, None, None], 1.0, (n, 1, 1)).astype(np.float32)
    time = np.arange(n, dtype=np.int64) * SECOND
    return WindowArrays(num, np.empty((n, 1, 0), np.int32), np.ones(n, np.int64), time)


@pytest.fixture(scope="module")
def model() -> Model:
    layout = Layout("s", "r", 1, ("amount",), (), "")
    return Model.fit(layout, windows(np.zeros(4000), 0), detector="pca")


def found(
    model: Model,
    level: NDArray[np.float64],
    *,
    seed: int = 1,
    settle: int = 0,
    cooldown: int = 0,
) -> list[int]:
    """Return when requests would be made, in windows."""
    data = windows(level, seed)
    watcher = Watcher(Drift(settle=settle, cooldown=Duration(cooldown)), model)
    return [time // SECOND for _, time in watcher(data, model.score(data))]


def step(before: int, after: int, size: float) -> NDArray[np.float64]:
    return np.repeat([0.0, size], [before, after])


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_that_stays_the_same_raises_nothing(model: Model, seed: int) -> None:
    assert found(model, np.zeros(30_000), seed=seed) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_change_is_found_and_dated(model: Model, seed: int) -> None:
    data = windows(step(5000, 5000, 1.0), seed)
    watcher = Watcher(Drift(settle=0), model)
    [(finding, time), *_] = watcher(data, model.score(data))
    assert 5000 < time / SECOND < 6500
    assert abs(finding.changed_at / SECOND - 5000) < 300


def test_it_waits_until_there_is_enough_to_learn_from(model: Model) -> None:
    [first, *_] = found(model, step(5000, 9000, 1.0))
    [later, *_] = found(model, step(5000, 9000, 1.0), settle=4000)
    assert first < 6500
    assert 8700 < later < 9400


def test_it_does_not_ask_again_within_the_cooldown(model: Model) -> None:
    level = np.concatenate([step(3000, 3000, 1.0), step(0, 3000, -2.0), step(0, 3000, 3.0)])
    many = found(model, level, cooldown=0)
    few = found(model, level, cooldown=5000 * SECOND)
    assert len(many) >= 3
    assert all(b - a >= 5000 for a, b in itertools.pairwise(few))
    assert len(few) < len(many)


def test_how_windows_are_batched_changes_nothing(model: Model) -> None:
    data = windows(step(4000, 4000, 1.0), 3)
    scores = model.score(data)
    whole = Watcher(Drift(), model)(data, scores)
    pieces, watcher = [], Watcher(Drift(), model)
    for cut in np.array_split(np.arange(len(scores)), 37):
        pieces += watcher(data[cut], scores[cut])
    assert pieces == whole
    assert whole
