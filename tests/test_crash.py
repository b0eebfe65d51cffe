"""A worker that is killed again and again publishes what one that was left alone would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import messages
from schemas.config import Kafka
from schemas.messages import ScoredEvent
from tests.pipelines import document, payments
from tests.running import accounts, consume, killed, wait_for, wait_for_messages, worker
from tests.test_cli import eddy

pytestmark = [pytest.mark.broker, pytest.mark.slow]

RECORDS = 60_000
KILLS = (5_000, 12_000, 25_000, 40_000)  # after so many events
PARTITIONS = 2
PATIENCE = 90.0


def pipeline_file(broker: Kafka, name: str, folder: Path, delivery: str) -> Path:
    stream = {
        "source": {"topic": name},
        "id": "number",
        "derive": ["gap"],
        "window": {"kind": "sliding", "size": 8},
        "emit": "all",
        "alerts": {"budget_per_day": 500},
    }
    made: dict[str, Any] = document(**stream) | {
        "name": name,
        "kafka": {"bootstrap": broker.bootstrap},
        "storage": str(folder / "storage"),
        "partitions": PARTITIONS,
        "delivery": delivery,
        "checkpoints": {"every": "500ms"},
    }
    path = folder / "pipeline.json"
    path.write_bytes(msgspec.json.encode(made))
    return path


def numbered(count: int, seed: int) -> list[bytes]:
    """Records with numbers of their own, some of them twice."""
    found = []
    for i, value in enumerate(payments(count, seed, cards=50)):
        record = msgspec.json.encode({**msgspec.json.decode(value), "number": f"n{i}"})
        found += [record] * (2 if i % 100 == 7 else 1)
    return found


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_kills_change_no_output(
    broker: Kafka, topic_name: str, tmp_path: Path, delivery: str
) -> None:
    pipeline = pipeline_file(broker, topic_name, tmp_path, delivery)
    history = tmp_path / "history.jsonl"
    history.write_bytes(b"\n".join(numbered(3000, seed=1)))
    assert eddy("fit", pipeline, "-i", history).returncode == 0
    assert eddy("topics", pipeline, "--create").returncode == 0
    today, values = tmp_path / "today.jsonl", numbered(RECORDS, seed=2)
    today.write_bytes(b"\n".join(values))
    assert eddy("produce", pipeline, "-i", today).returncode == 0
    scored_topic, topic = f"{topic_name}.payments.scored", f"{topic_name}.accounts"
    for count in KILLS:
        with killed(pipeline):
            wait_for_messages(broker.bootstrap, scored_topic, count, PATIENCE)
    with worker(pipeline):
        wait_for(broker.bootstrap, topic, len(values), PATIENCE)
    events = [messages.decode(x, ScoredEvent) for x in consume(broker.bootstrap, scored_topic)]
    if delivery == "exactly_once":
        assert len({(event.event_id, event.revision) for event in events}) == len(events)
        incidents = consume(broker.bootstrap, f"{topic_name}.payments.alerts")
        assert len(set(incidents)) == len(incidents)
    published: dict[str, ScoredEvent] = {}
    for event in events:
        first = published.setdefault(event.event_id, event)
        assert first.score == pytest.approx(event.score, rel=1e-5, abs=1e-6)
        assert first.p_value == pytest.approx(event.p_value, rel=1e-3, abs=1e-3)
    scored, report = tmp_path / "scored.jsonl", tmp_path / "report.json"
    replayed = eddy("replay", pipeline, "-i", today, "--output", scored, "--report", report)
    assert replayed.returncode == 0, replayed.stderr
    expected = [messages.decode(line, ScoredEvent) for line in scored.read_bytes().splitlines()]
    assert published.keys() == {event.event_id for event in expected}
    assert len(expected) > 0.99 * RECORDS
    for event in expected:
        found = published[event.event_id]
        assert found.score == pytest.approx(event.score, rel=1e-5, abs=1e-6)
        assert found.p_value == pytest.approx(event.p_value, rel=1e-3, abs=1e-3)
        assert (found.window_start, found.last_offset) == (event.window_start, event.last_offset)
        assert found.is_anomaly == event.is_anomaly
    counted = accounts(broker.bootstrap, topic)
    assert sum(account.duplicate for account in counted) == len(values) - RECORDS
    assert sum(account.windowed for account in counted) == RECORDS
    assert sum(account.first_offset for account in counted) == 0
    total = msgspec.json.decode(report.read_bytes())
    assert sum(account.anomalies for account in counted) == total["anomalies"]
    assert sum(account.incidents for account in counted) == total["incidents"]
