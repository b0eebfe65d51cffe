"""Who is measured: Eddy's detectors by id, and peers of pyod as ``pyod:NAME``."""

from __future__ import annotations

from time import process_time

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from agents.bench.accuracy.case import Case
from agents.bench.accuracy.online import STREAM_PEERS, run_online
from agents.bench.accuracy.outcome import Outcome
from agents.bench.accuracy.tasks import KINDS, WITH_LABELS
from agents.bench.peers import PYOD, Peer, fit, scores
from detectors import CATALOGUE, Budget, create, detector_class
from schemas.errors import DataError


def methods_for(suite: str) -> list[str]:
    """Return the detectors that take the windows of a suite, and peers.

    Those that cannot do without labels are for the suites with labels only, and streams are for
    those that learn on without training.
    """
    kind, names, known = KINDS.get(suite, "record"), [], suite in WITH_LABELS
    for name in sorted(CATALOGUE):
        caps = detector_class(name).caps
        learns = suite != "streams" or caps.partial_fit == "statistics-only"
        if kind in caps.kinds and learns and (known or not caps.min_labels):
            names.append(name)
    if suite == "streams":
        return [*names, *STREAM_PEERS]
    return names + [name for name, peer in PYOD.items() if known or not peer.labels]


def run(name: str, case: Case, seed: int, seconds: float) -> Outcome:
    """Fit within ``seconds`` where that can be limited, and score.

    Raises
    ------
    DataError
        If there is no such method here.
    """
    if case.learns:
        return run_online(name, case, seed, seconds)
    if name in PYOD:
        return _run_pyod(name, PYOD[name], case, seed)
    detector = create(name, seed=seed)
    labels = case.labels if detector.caps.uses_labels else None
    began = process_time()
    detector.fit(case.fit, labels, budget=Budget(seconds=seconds, clock=process_time))
    fitted = process_time()
    found = detector.score(case.test).score.double().numpy()
    return Outcome(found, fitted - began, process_time() - fitted, detector.report.stopped)


def _run_pyod(name: str, peer: Peer, case: Case, seed: int) -> Outcome:
    scale = StandardScaler()  # Eddy's detectors scale by themselves
    known, judged = case.flat()
    known, judged = scale.fit_transform(known), scale.transform(judged)
    detector = peer.create(seed, known.shape[1])
    labels = _known_labels(name, case.labels) if peer.labels else None
    began = process_time()
    try:
        fit(detector, known, labels)
    except ValueError as error:  # for one of many series, say: it then tells nothing apart there
        return Outcome(np.zeros(len(judged)), process_time() - began, 0.0, f"refused: {error}")
    fitted = process_time()
    found = scores(detector, judged)
    return Outcome(found, fitted - began, process_time() - fitted, "its own end")


def _known_labels(name: str, labels: NDArray[np.int8] | None) -> NDArray[np.int64]:
    if labels is None:
        msg = f"{name}: needs labels, and this data set is measured without"
        raise DataError(msg)
    known: NDArray[np.int64] = (labels == 1).astype(np.int64)
    return known
