"""Simulated card payments by the commands: how well frauds rank, one payment at a time.

Fitted without labels on the first days of some cards; then the other days are replayed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.realdata.loading import Results, folder_of
from tests.realdata.test_logs_replay import eddy

pytestmark = [pytest.mark.data, pytest.mark.slow]

DATA = "transactions_simulated/transactions"
CARDS, FIT_DAYS, DRAWS = 500, 30, 5
START_MS = 1_522_540_800_000
DETECTORS = ("knn", "pca", "rcf", "svdd", "ecod", "iforest")
MEASURES = ("roc_auc", "average_precision", "positives")
STREAM: dict[str, Any] = {
    "source": {"topic": "payments"},
    "key": "card",
    "id": "id",
    "time": {"field": "ts", "unit": "ms"},
    "fields": {"amount": "number", "merchant": "category"},
    "derive": ["gap", "time_of_day"],
    "window": {"kind": "sliding", "size": 1},
    "detectors": list(DETECTORS),
}


def payments(seed: int) -> pa.Table:
    """Payments of some cards, in time order, with the number of their day."""
    table = pq.read_table(folder_of(DATA) / f"{DATA}.parquet")
    cards = np.random.default_rng(seed).choice(
        pc.unique(table["CUSTOMER_ID"]), CARDS, replace=False
    )
    table = table.filter(pc.is_in(table["CUSTOMER_ID"], pa.array(cards)))
    seconds = pc.cast(table["TX_TIME_SECONDS"], pa.int64())
    return pa.table(
        {
            "id": pc.cast(table["TRANSACTION_ID"], pa.string()),
            "card": pc.cast(table["CUSTOMER_ID"], pa.string()),
            "merchant": pc.cast(table["TERMINAL_ID"], pa.string()),
            "amount": table["TX_AMOUNT"],
            "ts": pc.add(pc.multiply(seconds, 1000), START_MS),
            "fraud": table["TX_FRAUD"],
            "day": pc.cast(table["TX_TIME_DAYS"], pa.int64()),
        }
    )


def test_one_payment_at_a_time(tmp_path: Path, show: Callable[[str], None]) -> None:
    results = Results()
    for seed in range(DRAWS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        pipeline, before, after = (folder / n for n in ("eddy.json", "old.parquet", "new.parquet"))
        document = {"storage": str(folder / "storage"), "streams": {"payments": STREAM}}
        pipeline.write_text(json.dumps(document))
        table = payments(seed)
        early = pc.less(table["day"], FIT_DAYS)
        pq.write_table(table.filter(early), before)
        pq.write_table(table.filter(pc.invert(early)), after)
        eddy("fit", pipeline, "-i", before, "--label", "fraud", "--seed", seed)
        metrics = eddy("replay", pipeline, "-i", after, "--label", "fraud")["metrics"]
        for name in DETECTORS:
            measured = metrics[f"payments/{name}"]
            results.add(name, {each: measured[each] for each in MEASURES})
    show(results.table(f"Payments by eddy replay, {DRAWS} draws of {CARDS} cards"))
    assert results.mean("knn", "average_precision") > 10 * results.mean("knn", "positives")
