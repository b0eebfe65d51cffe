"""Sessions of HDFS log events: models as ``eddy fit`` makes them, thresholds fixed beforehand.

A model is fitted, and calibrated, on 60 % of the normal sessions, chosen by a hash of the block id.
The others are tested, with as many anomalous ones drawn as make up 2.93 %, their share in the
full log. A session is flagged where its p-value is at most 0.002; the best F1 over all thresholds
stands beside as what no rule can exceed. The figures without known sequences leave out every
session whose exact sequence of events occurs in the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from agents.bench.accuracy.case import Rows
from agents.bench.accuracy.sessions import Sessions
from agents.metrics import detection_metrics
from agents.records import Floats
from agents.tail import Tail
from detectors.model import Model
from detectors.split import FULL
from tests.realdata.loading import Results, place
from tests.realdata.loading import sessions as read_sessions

pytestmark = pytest.mark.data

DRAWS = 20
HISTORY = 0.6
SHARE = 0.0293
THRESHOLD = 0.002
SHOWN = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "best_f1": "best F1",
    "average_precision": "average precision",
}


@dataclass(frozen=True)
class Judged:
    """Rows that were not learned from, their scores and p-values, and whether each is unknown."""

    rows: Rows
    scores: Floats
    p_values: Floats
    unknown: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Judged:
        """Pick rows."""
        picked = (self.rows, self.scores, self.p_values, self.unknown)
        return Judged(*(part[chosen] for part in picked))


def read() -> Sessions:
    return read_sessions("hdfs/sessions_loghub")


def judge(sessions: Sessions, detector: str, salt: str = "") -> Judged:
    """Fit on the history and judge all other sessions; ``salt`` makes another split."""
    places = np.array([place(salt + block) for block in sessions.ids])
    in_history = ~sessions.anomalous & (places < HISTORY)
    history, rows = np.flatnonzero(in_history), np.flatnonzero(~in_history)
    model = Model.fit(sessions.layout, sessions.windows(history), detector=detector)
    scores = model.score(sessions.windows(rows))
    known = {sessions.events[row] for row in history.tolist()}
    unknown = np.array([sessions.events[row] not in known for row in rows.tolist()])
    return Judged(rows, scores, Tail.fit(model.calibration[FULL]).p_values(scores), unknown)


def draws(sessions: Sessions, judged: Judged) -> Iterator[Judged]:
    """All normal sessions with anomalous ones in their true share, drawn again and again."""
    anomalous = sessions.anomalous[judged.rows]
    normal, others = np.flatnonzero(~anomalous), np.flatnonzero(anomalous)
    size = round(len(normal) * SHARE / (1 - SHARE))
    for seed in range(DRAWS):
        drawn = np.random.default_rng(seed).choice(others, size, replace=False)
        yield judged[np.concatenate([normal, drawn])]


def measure(sessions: Sessions, judged: Judged) -> dict[str, float]:
    truth = sessions.anomalous[judged.rows].astype(np.int8)
    found = detection_metrics(truth, judged.scores, judged.p_values <= THRESHOLD)
    alarms = judged.p_values[truth == 0] <= THRESHOLD
    return {name: found[key] for key, name in SHOWN.items()} | {"false alarms": alarms.mean()}


@pytest.mark.slow
def test_sessions_are_told_apart_by_a_threshold_that_was_fixed_beforehand(
    show: Callable[[str], None],
) -> None:
    sessions, results = read(), Results()
    for detector in ("count_vector", "ffp"):
        for draw in draws(sessions, judge(sessions, detector)):
            results.add(detector, measure(sessions, draw))
            unknown = measure(sessions, draw[draw.unknown])
            results.add(f"{detector}, unknown sequences", unknown)
    show(results.table(f"HDFS sessions, {DRAWS} draws"))
    assert results.mean("count_vector", "F1") >= 0.95


def test_count_vectors_do_not_depend_on_a_lucky_split(show: Callable[[str], None]) -> None:
    sessions, results = read(), Results()
    for seed in range(DRAWS):
        judged = judge(sessions, "count_vector", salt=f"{seed}/")
        for draw in draws(sessions, judged):
            results.add("count_vector", measure(sessions, draw))
    show(results.table(f"HDFS sessions, {DRAWS} draws from each of {DRAWS} splits"))
    assert results.mean("count_vector", "F1") >= 0.95
