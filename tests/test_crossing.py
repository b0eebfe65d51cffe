"""Cross-calibration: no window is scored by a fit that has seen it, and none is left out."""

import numpy as np
from numpy.typing import NDArray

from agents.tail import Tail
from detectors.crossing import FOLDS, cross_scores
from detectors.model import Model
from detectors.split import CALIBRATION_SHARE, FULL
from detectors.windows import Layout, WindowArrays

STEPS = 8
Rows = NDArray[np.int64]


def sessions(count: int, seed: int = 0) -> WindowArrays:
    """Sessions of 3 to 6 events, of which one in a hundred holds an event that no other has."""
    rng = np.random.default_rng(seed)
    length = rng.integers(3, 7, count)
    cat = rng.integers(1, 5, (count, STEPS, 1)).astype(np.int32)
    odd = rng.random(count) < 0.01
    cat[odd, 0, 0] = 100 + np.flatnonzero(odd)
    cat[np.arange(STEPS) >= length[:, None]] = 0
    return WindowArrays(
        np.empty((count, STEPS, 0), dtype=np.float32), cat, length, np.arange(count)
    )


def fit(windows: WindowArrays, detector: str = "count_vector") -> Model:
    layout = Layout("logs", "route", STEPS, (), ("event",), "session")
    return Model.fit(layout, windows, detector=detector)


def test_every_row_is_scored_once_by_a_fit_that_lacks_only_its_fold() -> None:
    rows = np.arange(100, 1103)

    def score(known: Rows, unseen: Rows) -> NDArray[np.float64]:
        assert np.array_equal(np.sort(np.concatenate([known, unseen])), rows)
        assert len(unseen) <= len(rows) / FOLDS + 1
        return unseen.astype(np.float64)

    assert np.array_equal(cross_scores(rows, score), rows)


def test_few_sessions_all_calibrate_and_all_are_learned() -> None:
    model = fit(sessions(700))
    assert len(model.calibration[FULL]) == model.detector.report.windows == 700


def test_sliding_windows_calibrate_by_the_newest_alone() -> None:
    windows = sessions(700)
    full = WindowArrays(windows.num, windows.cat, np.full(700, STEPS), windows.time)
    assert len(fit(full).calibration[FULL]) == 700 - int(700 * (1 - CALIBRATION_SHARE))


def test_p_values_of_new_normal_sessions_are_as_rare_as_they_say() -> None:
    model, unseen = fit(sessions(2000)), sessions(20_000, seed=1)
    p_values = Tail.fit(model.calibration[FULL]).p_values(model.score(unseen))
    for level in (0.002, 0.005, 0.05):
        assert float(np.mean(p_values <= level)) <= 1.5 * level
