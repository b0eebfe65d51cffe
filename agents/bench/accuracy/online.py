"""Streams in order: a record is scored first and learned from afterwards (prequential).

Peers of river and rcf3 go record by record, as they are made for; Eddy's detectors go block by
block, as a worker does, so that a record is scored by what was known up to 256 records before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from time import process_time
from typing import Any

import numpy as np

from agents.bench.accuracy.case import Case, Floats
from agents.bench.accuracy.outcome import Outcome
from detectors import Budget, create
from schemas.errors import DataError

BLOCK = 256


def run_online(name: str, case: Case, seed: int, seconds: float) -> Outcome:
    """Fit on the beginning of a stream, then score and learn the rest of it."""
    if name in STREAM_PEERS:
        return _run_peer(name, case, seed)
    detector = create(name, seed=seed)
    began = process_time()
    detector.fit(case.fit, budget=Budget(seconds=seconds, clock=process_time))
    learning, scoring = process_time() - began, 0.0
    scores = []
    for part in case.test.chunks(BLOCK):
        began = process_time()
        scores.append(detector.score(part).score.double().numpy())
        scored = process_time()
        detector.partial_fit(part)
        scoring += scored - began
        learning += process_time() - scored
    return Outcome(np.concatenate(scores), learning, scoring, detector.report.stopped)


Step = Callable[[list[float]], float]
"""Scores a record, and then learns it."""


def _river(seed: int, columns: int) -> Step:
    anomaly = _module("river.anomaly", "river")
    trees = anomaly.HalfSpaceTrees(n_trees=25, height=8, window_size=250, seed=seed)

    def step(row: list[float]) -> float:
        x = dict(enumerate(row))
        score: float = trees.score_one(x)
        trees.learn_one(x)
        return score

    return step


def _rcf3(name: str, seed: int, columns: int) -> Step:
    forest = getattr(_module("rcf3", "rcf3"), name)(columns, seed=seed)
    step: Step = forest.update_and_score
    return step


STREAM_PEERS: dict[str, Callable[[int, int], Step]] = {
    "river:hst": _river,
    "rcf3:forest": partial(_rcf3, "Forest"),
    "rcf3:online_iforest": partial(_rcf3, "OnlineIForest"),
}
"""Made from a seed and the number of columns."""


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        msg = f"{package}: {error.name} is not installed; pip install 'eddy[bench]'"
        raise DataError(msg) from error


def _run_peer(name: str, case: Case, seed: int) -> Outcome:
    known, judged = case.flat()
    rows = _unit(np.concatenate([known, judged])).tolist()
    step = STREAM_PEERS[name](seed, known.shape[1])
    for row in rows[: len(known)]:
        step(row)
    began = process_time()
    scores = np.array([step(row) for row in rows[len(known) :]])
    return Outcome(scores, 0.0, process_time() - began, "its own end")


def _unit(rows: Floats) -> Floats:
    """Scale to 0 .. 1 by the range of the whole stream: half-space trees ask for it."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    unit: Floats = (rows - low) / np.where(high > low, high - low, 1.0)
    return unit
