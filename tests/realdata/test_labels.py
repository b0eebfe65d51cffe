"""A few labelled anomalies: annthyroid with 30 of them, as in the paper of deviation networks.

Of the 20 % that are tested nothing is known; the rest becomes unlabelled windows, anomalies making
up 2 % of them, besides the labelled ones (Pang et al. 2019, table 1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from agents.bench.accuracy.case import Rows
from agents.bench.accuracy.table import Table
from detectors import create
from tests.realdata.loading import Results
from tests.realdata.loading import table as read_table

pytestmark = pytest.mark.data

SEEDS = range(10)
LABELLED = 30
CONTAMINATION = 0.02
PUBLISHED = {"AUC-PR": 0.274, "ROC AUC": 0.783}


def split(table: Table, seed: int) -> tuple[Rows, NDArray[np.int8], Rows]:
    """Rows to fit on, their labels (1 anomaly, -1 unlabelled), and rows to test."""
    rng = np.random.default_rng(seed)
    normal = rng.permutation(np.flatnonzero(~table.anomalous))
    anomalies = rng.permutation(np.flatnonzero(table.anomalous))
    normals, known = round(0.8 * len(normal)), round(0.8 * len(anomalies))
    hidden = round(CONTAMINATION / (1 - CONTAMINATION) * normals)
    labelled, unlabelled = anomalies[:LABELLED], anomalies[LABELLED:known][:hidden]
    fit = np.concatenate([labelled, unlabelled, normal[:normals]])
    marks = np.full(len(fit), -1, dtype=np.int8)
    marks[:LABELLED] = 1
    order = rng.permutation(len(fit))
    return fit[order], marks[order], np.concatenate([normal[normals:], anomalies[known:]])


@pytest.mark.slow
def test_thirty_labels_teach_devnet_what_the_paper_reports(show: Callable[[str], None]) -> None:
    table = read_table("devnet/annthyroid_21feat_normalised", label="class")
    results = Results()
    results.add("paper", PUBLISHED)
    for seed in SEEDS:
        fit, marks, test = split(table, seed)
        known, judged = table.encoded(fit, test)
        scores = create("devnet", seed=seed).fit(known, marks).score(judged).score.numpy()
        truth = table.anomalous[test]
        measures = {
            "AUC-PR": float(average_precision_score(truth, scores)),
            "ROC AUC": float(roc_auc_score(truth, scores)),
        }
        results.add("devnet", measures)
    show(results.table(f"annthyroid, {LABELLED} labels, {len(SEEDS)} seeds"))
    for measure, published in PUBLISHED.items():
        assert results.mean("devnet", measure) >= published
