"""HDFS sessions by the commands themselves: ``eddy fit`` on a history, ``eddy replay`` of a day.

The split, the share of anomalies and the threshold are those of :mod:`tests.realdata.test_logs`,
but everything goes through files and the whole pipeline: a JSON line for each event of a session,
session windows by block, p-values as they are published. A p-value depends on the windows before
it, because calibration moves with the stream. So each draw of anomalies, the same draws as there,
is a replay of its own, in which they come at random times among the normal sessions: one replay of
all anomalies, three of four sessions, would be another stream. One partition takes all, so that
calibration moves at all (every 1,024 windows of a partition).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.bench.accuracy.case import Rows
from agents.bench.accuracy.sessions import Sessions
from agents.decide import BLOCK
from tests.realdata.loading import Results, place
from tests.realdata.test_logs import DRAWS, HISTORY, SHARE, Judged, measure, read

pytestmark = [pytest.mark.data, pytest.mark.slow]

DETECTORS = ("count_vector", "ffp")
START_MS = 1_226_300_000_000
APART_MS, STEP_MS = 20_000, 1_000
PIPELINE: dict[str, Any] = {
    "partitions": 1,
    "streams": {
        "hdfs": {
            "source": {"topic": "hdfs"},
            "key": "block",
            "time": {"field": "ts", "unit": "ms"},
            "fields": {"event": "category"},
            "window": {"kind": "session", "gap": "5m", "size": 64},
            "detectors": list(DETECTORS),
            "emit": {"mode": "all"},
        }
    },
}


def eddy(*arguments: object) -> Any:
    command = [sys.executable, "-m", "agents", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write(path: Path, sessions: Sessions, rows: Rows) -> int:
    """Write the events of sessions that begin one after the other and overlap; count them."""
    lines = []
    for number, row in enumerate(rows.tolist()):
        common = {"block": sessions.ids[row], "anomalous": int(sessions.anomalous[row])}
        for step, event in enumerate(sessions.events[row]):
            time = START_MS + APART_MS * number + STEP_MS * step
            lines.append((time, json.dumps({"ts": time, **common, "event": f"E{event}"})))
    lines.sort(key=lambda line: line[0])
    path.write_text("\n".join(line for _, line in lines))
    return len(lines)


def replayed(pipeline: Path, sessions: Sessions, rows: Rows, known: set[Any]) -> dict[str, Judged]:
    """Replay sessions; return what was published about them by each detector."""
    today, scored = pipeline.with_name("today.jsonl"), pipeline.with_name("scored.jsonl")
    events = write(today, sessions, rows)
    report = eddy("replay", pipeline, "-i", today, "--label", "anomalous", "--output", scored)
    assert report["records_in"] == report["windowed"] == events
    assert report["windows"] == len(rows)
    row_of = {sessions.ids[row]: row for row in rows.tolist()}
    found: dict[str, list[tuple[int, float, float, bool]]] = {name: [] for name in DETECTORS}
    for line in scored.read_text().splitlines():
        event = json.loads(line)
        row = row_of[event["key"]]
        unknown = sessions.events[row] not in known
        found[event["route"]].append((row, event["score"], event["p_value"], unknown))
    judged = {name: Judged(*map(np.array, zip(*of, strict=True))) for name, of in found.items()}
    for name, one in judged.items():
        assert sorted(one.rows.tolist()) == sorted(rows.tolist())
        measured = report["metrics"][f"hdfs/{name}"]["average_precision"]
        assert measured == pytest.approx(measure(sessions, one)["average precision"])
    return judged


def test_the_commands_tell_sessions_apart_as_well_as_the_models_do(
    tmp_path: Path, show: Callable[[str], None]
) -> None:
    sessions, results = read(), Results()
    places = np.array([place(block) for block in sessions.ids])
    history = np.flatnonzero(~sessions.anomalous & (places < HISTORY))
    normal = np.flatnonzero(~sessions.anomalous & (places >= HISTORY))
    known = {sessions.events[row] for row in history.tolist()}
    pipeline, past = tmp_path / "hdfs.yaml", tmp_path / "history.jsonl"
    pipeline.write_text(json.dumps({**PIPELINE, "storage": str(tmp_path / "storage")}))
    write(past, sessions, history)
    assert [made["route"] for made in eddy("fit", pipeline, "-i", past)] == list(DETECTORS)
    size = round(len(normal) * SHARE / (1 - SHARE))
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        drawn = rng.choice(np.flatnonzero(sessions.anomalous), size, replace=False)
        rows = rng.permutation(np.concatenate([normal, drawn]))
        assert len(rows) > BLOCK
        for name, judged in replayed(pipeline, sessions, rows, known).items():
            results.add(name, measure(sessions, judged))
            unknown = measure(sessions, judged[judged.unknown])
            results.add(f"{name}, unknown sequences", unknown)
    show(results.table(f"HDFS sessions by eddy replay, {DRAWS} draws"))
    assert results.mean("count_vector", "F1") >= 0.95
