"""What a replay reports when it is told the labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agents.measure import Measure, buffer_length
from agents.replay import replay
from agents.vus import vus_pr
from schemas.parse import parse_pipeline
from tests.pipelines import config, document, fetch, fitted, payments
from tests.test_cli import eddy

CHANGED = range(300, 340)


def labelled(n: int = 500) -> list[dict[str, Any]]:
    """Payments of a few cards; for a while those of one card grow, and are labelled."""
    records = [msgspec.json.decode(value) for value in payments(n, seed=2)]
    for at, record in enumerate(records):
        odd = at in CHANGED and record["card"] == "card-3"
        record |= {"fraud": int(odd), "amount": at - 240.0 if odd else record["amount"]}
    return records


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"\n".join(map(msgspec.json.encode, records)))
    return path


def test_a_labelled_replay_reports_vus_pr_and_delay(tmp_path: Path) -> None:
    pipeline, scored, report = (tmp_path / name for name in ("p.yaml", "scored.jsonl", "r.json"))
    pipeline.write_text(json.dumps({**document(), "storage": str(tmp_path / "storage")}))
    (tmp_path / "history.jsonl").write_bytes(b"\n".join(payments(2000, seed=1)))
    assert eddy("fit", pipeline, "-i", tmp_path / "history.jsonl").returncode == 0
    records = labelled()
    today = write(tmp_path / "today.jsonl", records)
    options = ("--label", "fraud", "--output", scored, "--report", report)
    shown = eddy("replay", pipeline, "-i", today, *options)
    assert shown.returncode == 0, shown.stderr
    found = json.loads(report.read_text())["metrics"]["payments/pca"]

    fraud = {record["ts"] * 10**6: record["fraud"] for record in records}
    windows = [json.loads(line) for line in scored.read_text().splitlines()]
    windows.sort(key=lambda w: (w["key"], w["window_end"]))
    truth = np.array([fraud[w["window_end"]] == 1 for w in windows])
    scores = np.array([w["score"] for w in windows])
    _, series = np.unique([w["key"] for w in windows], return_inverse=True)
    assert found["vus_pr"] == pytest.approx(vus_pr(truth, scores, series, 4))
    during = [w for w, mark in zip(windows, truth, strict=True) if mark]
    notice = [w["is_anomaly"] for w in during].index(True)
    waited = during[notice]["window_end"] - during[0]["window_end"]
    assert notice > 0
    assert (found["events"], found["event_recall"]) == (1, 1)
    assert found["delay_windows"] == found["delay_windows_median"] == notice
    assert found["delay_seconds"] == found["delay_seconds_median"] == waited / 1e9
    assert f"vus_pr {found['vus_pr']:.4f}" in shown.stdout


def test_measures_do_not_depend_on_how_records_were_fetched() -> None:
    values: list[bytes | None] = [msgspec.json.encode(record) for record in labelled()]
    results = []
    for size in (500, 7):
        pipeline = fitted(config())
        relabelled = type(pipeline)(pipeline.config, lambda: 0, label="fraud")
        model = pipeline._models["payments", "pca"]
        relabelled.apply("payments", "pca", model)
        cuts = range(0, len(values), size)
        fetches = ([fetch(values[at : at + size], first=at)] for at in cuts)
        results.append(replay(relabelled, fetches, [], measure=Measure()).metrics)
    assert results[0]["payments/pca"].keys() >= {"vus_pr", "event_recall", "events"}
    assert results[0] == results[1]


def test_without_both_kinds_of_label_nothing_is_measured(tmp_path: Path) -> None:
    pipeline = fitted(config())
    values = list(payments(100, seed=2))
    found = replay(pipeline, [[fetch(list(values))]], [], measure=Measure())
    assert found.metrics == {"payments/pca": {}}


@pytest.mark.parametrize(
    ("window", "changes", "expected"),
    [
        ({"kind": "sliding", "size": 16}, {}, 16),
        ({"kind": "sliding", "size": 16, "stride": 5}, {}, 4),
        ({"kind": "sliding", "size": 16}, {"key": "none"}, 2),
        ({"kind": "hopping", "length": "1h", "hop": "5m"}, {}, 12),
        ({"kind": "tumbling", "length": "1h"}, {}, 2),
        ({"kind": "session"}, {}, 2),
    ],
)
def test_borders_are_as_wide_as_windows_overlap(
    window: dict[str, Any], changes: dict[str, str], expected: int
) -> None:
    streams = parse_pipeline(document(window=window, **changes)).streams
    assert buffer_length(streams["payments"]) == expected
