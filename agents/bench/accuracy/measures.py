"""How well scores find what is labelled."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import precision_recall_curve

from agents.bench.accuracy.case import Bools, Case, Floats, Rows
from agents.bench.accuracy.series import STEPS
from agents.events import Events, delay_metrics
from agents.metrics import detection_metrics, harmonic_mean
from agents.vus import vus_pr
from schemas.errors import DataError


def measure(case: Case, scores: Floats) -> dict[str, float]:
    """Measure the scores ``[m]`` of what was tested.

    Returns
    -------
    dict[str, float]
        ``roc_auc``, ``average_precision``, ``best_f1`` and ``positives`` of single windows. For
        series also ``vus_pr``, with a border of the length of a window; ``event_f1``, by
        :func:`event_f1`; and at the threshold of the best F1 ``delay_windows``, the mean from the
        beginning of an event to its first alarm, missing where no event was noticed.

    Raises
    ------
    DataError
        If anomalies are all or none of what was tested.
    """
    truth = case.truth
    found = detection_metrics(truth.astype(np.int8), scores, np.zeros(len(truth), dtype=bool))
    if not found:
        msg = f"of {len(truth)} tested windows {int(truth.sum())} are anomalous: nothing to rank"
        raise DataError(msg)
    names = ("roc_auc", "average_precision", "best_f1", "positives")
    measures = {name: found[name] for name in names}
    if case.series is None:
        return measures
    measures["vus_pr"] = vus_pr(truth, scores, case.series, STEPS)
    measures["event_f1"] = event_f1(truth, scores, case.series)
    flagged = scores >= best_threshold(truth, scores)
    delays = delay_metrics(truth, flagged, case.series, np.arange(len(truth)))
    if "delay_windows" in delays:
        measures["delay_windows"] = delays["delay_windows"]
    return measures


def best_threshold(truth: Bools, scores: Floats) -> float:
    """Return the threshold of the best F1 of single windows."""
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    f1 = harmonic_mean(precision, recall)
    return float(thresholds[int(np.argmax(f1[:-1]))])


def event_f1(truth: Bools, scores: Floats, series: Rows) -> float:
    """Return the best harmonic mean of the recall of events and the precision of windows.

    An event is a run of labelled windows, and is found if one of them is flagged (the composite
    F-score of Garg et al. 2021, *An evaluation of anomaly detection and diagnosis in multivariate
    time series*). Unlike with point adjustment, a found event adds nothing to the precision.
    """
    events = Events.of(truth, series)
    bounds = np.stack([events.first, events.last + 1], axis=1).ravel()
    highest = np.sort(np.maximum.reduceat(np.append(scores, -np.inf), bounds)[::2])
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    last = np.append(falling[1:] != falling[:-1], True)  # equal scores are flagged together
    hits = np.cumsum(truth[order])[last]
    precision = hits / (np.flatnonzero(last) + 1)
    found = len(highest) - np.searchsorted(highest, falling[last], side="left")
    recall = found / len(highest)
    return float(harmonic_mean(precision, recall).max())
