"""Who is measured: Eddy's detectors by id, and peers of pyod as ``pyod:NAME``."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import NamedTuple

from agents.bench.accuracy.table import Floats, Table
from agents.bench.accuracy.tasks import Split
from detectors import CATALOGUE, Budget, create, detector_class
from schemas.errors import DataError

PYOD = {
    "pyod:iforest": ("pyod.models.iforest", "IForest", True),
    "pyod:ecod": ("pyod.models.ecod", "ECOD", False),
    "pyod:knn": ("pyod.models.knn", "KNN", False),
    "pyod:lof": ("pyod.models.lof", "LOF", False),
}
"""Module, class, and whether it takes a seed."""


class Outcome(NamedTuple):
    """Scores ``[n]`` of the rows to test, and what they took."""

    scores: Floats
    fit_seconds: float
    score_seconds: float
    stopped: str


Method = Callable[[Table, Split, int, float], Outcome]


def methods_for(suite: str) -> list[str]:
    """Return the detectors that take records, with labels in the suite of few labels only."""
    ours = []
    for name in sorted(CATALOGUE):
        caps = detector_class(name).caps
        if "record" in caps.kinds and (suite == "weak" or not caps.min_labels):
            ours.append(name)
    return [*ours, *PYOD]


def run(name: str, table: Table, split: Split, seed: int, seconds: float) -> Outcome:
    """Fit within ``seconds`` where that can be limited, and score.

    Raises
    ------
    DataError
        If there is no such method here.
    """
    if name in PYOD:
        return _run_pyod(name, table, split, seed)
    detector = create(name, seed=seed)
    known, judged = table.encoded(split.fit, split.test)
    labels = split.labels if detector.caps.uses_labels else None
    began = time.perf_counter()
    detector.fit(known, labels, budget=Budget(seconds=seconds))
    fitted = time.perf_counter()
    scores = detector.score(judged).score.double().numpy()
    return Outcome(scores, fitted - began, time.perf_counter() - fitted, detector.report.stopped)


def _run_pyod(name: str, table: Table, split: Split, seed: int) -> Outcome:
    module, attribute, seeded = PYOD[name]
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        msg = f"{name}: {error.name} is not installed; pip install 'eddy[bench]'"
        raise DataError(msg) from error
    known, judged = table.one_hot(split.fit, split.test)
    began = time.perf_counter()
    detector = found(random_state=seed) if seeded else found()
    detector.fit(known)
    fitted = time.perf_counter()
    scores = detector.decision_function(judged)
    return Outcome(scores, fitted - began, time.perf_counter() - fitted, "its own end")
