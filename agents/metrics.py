"""How well scores rank labelled anomalies, and how well the chosen threshold tells them apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from agents.records import Floats


def harmonic_mean(precision: Floats, recall: Floats) -> Floats:
    """Return the F1 of ``[n]`` precisions and recalls, 0 where both are."""
    f1: Floats = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return f1


def detection_metrics(
    labels: NDArray[np.int8],
    scores: Floats,
    flagged: NDArray[np.bool_],
) -> dict[str, float]:
    """Measure ``[W]`` scores and verdicts against labels; unlabelled windows do not count.

    Returns
    -------
    dict[str, float]
        ``roc_auc`` and ``average_precision`` of the ranking; ``best_f1`` over all thresholds, an
        upper bound that needs the labels; ``precision``, ``recall`` and ``f1`` of the verdicts as
        they were given; ``positives``, the share of anomalies. Empty without both kinds of label.
    """
    known = labels >= 0
    truth, scores, flagged = labels[known] == 1, scores[known], flagged[known]
    if not truth.any() or truth.all():
        return {}
    precision, recall, _ = metrics.precision_recall_curve(truth, scores)
    f1 = harmonic_mean(precision, recall)
    hit = float((truth & flagged).sum())
    operating_precision = hit / max(float(flagged.sum()), 1.0)
    operating_recall = hit / float(truth.sum())
    return {
        "roc_auc": float(metrics.roc_auc_score(truth, scores)),
        "average_precision": float(metrics.average_precision_score(truth, scores)),
        "best_f1": float(f1.max()),
        "precision": operating_precision,
        "recall": operating_recall,
        "f1": 2 * hit / max(float(truth.sum() + flagged.sum()), 1.0),
        "positives": float(truth.mean()),
    }
