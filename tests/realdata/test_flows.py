"""Network flows: records without a key, beside the detectors of pyod on the same splits.

Fitted on half of the normal records, tested on the other half with attacks subsampled to 5 %. At
most 20,000 records are fitted on and as many normal ones tested. Numbers are raw for everyone.
Categories are ids to our detectors, as the pipeline encodes them, and one-hot or ordinal codes to
pyod's, whose best coding counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from agents.bench.accuracy.case import Rows
from agents.bench.accuracy.table import Table
from detectors import create
from tests.realdata.loading import Results
from tests.realdata.loading import table as read_table

pytestmark = pytest.mark.data

OURS = ("svdd", "knn", "iforest", "pca")
SEEDS = range(5)
CAP = 20_000
SHARE = 0.05

Floats = NDArray[np.float64]


def unsw_nb15() -> Table:
    return read_table(
        "unsw_nb15/unsw_nb15_82332",
        label="label",
        categories=("proto", "service", "state"),
        drop=("id", "attack_cat"),
    )


def kdd99() -> Table:
    return read_table(
        "kdd99/kddcup_10_percent",
        label="label",
        categories=("protocol_type", "service", "flag"),
        drop=("attack",),
    )


def split(table: Table, seed: int) -> tuple[Rows, Rows]:
    """Rows to fit on and rows to test."""
    rng = np.random.default_rng(seed)
    normal = rng.permutation(np.flatnonzero(~table.anomalous))
    half = len(normal) // 2
    fit, test = normal[:half][:CAP], normal[half:][:CAP]
    attacks = round(len(test) * SHARE / (1 - SHARE))
    drawn = rng.choice(np.flatnonzero(table.anomalous), attacks, replace=False)
    return fit, np.concatenate([test, drawn])


def our_scores(table: Table, fit: Rows, test: Rows, seed: int) -> dict[str, Floats]:
    known, judged = table.encoded(fit, test)
    return {
        name: create(name, seed=seed).fit(known).score(judged).score.double().numpy()
        for name in OURS
    }


def pyod_scores(table: Table, fit: Rows, test: Rows, seed: int) -> dict[str, Floats]:
    ecod = pytest.importorskip("pyod.models.ecod", reason="pyod (the extra 'bench') is missing")
    iforest = pytest.importorskip("pyod.models.iforest")
    values = np.stack([np.array(column) for column in table.categories.values()], axis=1)
    codings = {
        "one-hot": OneHotEncoder(handle_unknown="ignore", sparse_output=False),
        "ordinal": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    }
    scores = {}
    for coding, encoder in codings.items():
        encoder.fit(values[fit])
        known = np.hstack([table.numbers[fit], encoder.transform(values[fit])])
        judged = np.hstack([table.numbers[test], encoder.transform(values[test])])
        forest = iforest.IForest(random_state=seed).fit(known)
        scores[f"pyod IForest, {coding}"] = forest.decision_function(judged)
        scores[f"pyod ECOD, {coding}"] = ecod.ECOD().fit(known).decision_function(judged)
    return scores


@pytest.mark.slow
@pytest.mark.parametrize("read", [unsw_nb15, kdd99])
def test_the_best_detector_ranks_attacks_no_worse_than_pyod(
    read: Callable[[], Table], show: Callable[[str], None]
) -> None:
    table, results = read(), Results()
    for seed in SEEDS:
        fit, test = split(table, seed)
        truth = table.anomalous[test]
        ours = our_scores(table, fit, test, seed)
        theirs = pyod_scores(table, fit, test, seed)
        for method, scores in {**ours, **theirs}.items():
            measures = {
                "average precision": float(average_precision_score(truth, scores)),
                "ROC AUC": float(roc_auc_score(truth, scores)),
            }
            results.add(method, measures)
    show(results.table(f"{read.__name__}, {len(SEEDS)} seeds, {len(fit):,} records fitted on"))
    best = max(results.mean(method, "average precision") for method in ours)
    assert best >= max(results.mean(method, "average precision") for method in theirs)
