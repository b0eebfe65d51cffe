"""The worker on a real broker publishes what replay computes: all of it, each event once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.broker import Broker
from tests.pipelines import document, payments
from tests.running import by_id, consume, wait_for, worker
from tests.test_cli import eddy

pytestmark = pytest.mark.broker
RECORDS = 3000
PATIENCE = 90.0


def test_run_equals_replay(broker: Broker, topic_name: str, tmp_path: Path) -> None:
    made: dict[str, Any] = document(source={"topic": topic_name}, id="number", archive=False)
    made |= {
        "name": topic_name,
        "kafka": {"bootstrap": broker.bootstrap},
        "storage": str(tmp_path / "storage"),
        "partitions": 2,
    }
    pipeline = tmp_path / "pipeline.json"
    pipeline.write_bytes(msgspec.json.encode(made))
    history, today = tmp_path / "history.jsonl", tmp_path / "today.jsonl"
    history.write_bytes(b"\n".join(payments(2000, seed=1)))
    numbered = [
        msgspec.json.encode({**msgspec.json.decode(value), "number": f"n{i}"})
        for i, value in enumerate(payments(RECORDS, seed=2))
    ]
    today.write_bytes(b"\n".join(numbered))
    assert eddy("fit", pipeline, "-i", history).returncode == 0
    assert eddy("topics", pipeline, "--create").returncode == 0
    sent = eddy("produce", pipeline, "-i", today)
    assert sent.returncode == 0, sent.stderr
    with worker(pipeline):
        wait_for(broker.bootstrap, f"{topic_name}.accounts", RECORDS, PATIENCE)
    published = by_id(consume(broker.bootstrap, f"{topic_name}.payments.scored"))
    scored = tmp_path / "scored.jsonl"
    replayed = eddy("replay", pipeline, "-i", today, "--output", scored)
    assert replayed.returncode == 0, replayed.stderr
    expected = by_id(scored.read_bytes().splitlines())
    assert published.keys() == expected.keys()
    for event_id, event in expected.items():
        found = published[event_id]
        assert found.score == pytest.approx(event.score, rel=1e-5, abs=1e-6)
        assert found.is_anomaly == event.is_anomaly
        assert (found.partition, found.last_offset) == (event.partition, event.last_offset)
