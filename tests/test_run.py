"""The worker on a real broker publishes what replay computes: all of it, each event once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.config import Kafka
from tests.kafka_support import make_topic, read
from tests.pipelines import document, payments
from tests.running import by_id, consume, wait_for, worker
from tests.test_cli import eddy

pytestmark = pytest.mark.broker
RECORDS = 3000
PATIENCE = 90.0


def test_run_equals_replay(broker: Kafka, topic_name: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("options", [[], ["--no-key"]])
def test_produced_records_bear_their_event_times(
    broker: Kafka, topic_name: str, tmp_path: Path, options: list[str]
) -> None:
    made = document(source={"topic": topic_name}) | {"kafka": {"bootstrap": broker.bootstrap}}
    pipeline, today = tmp_path / "pipeline.json", tmp_path / "today.jsonl"
    pipeline.write_bytes(msgspec.json.encode(made))
    config = broker
    make_topic(config, topic_name, partitions=2)
    good = payments(20, jitter_ms=5000)
    began = time.time_ns()
    later = [began // 10**6 + 86_400_000, began // 10**6 - 1000]
    odd = [
        b"{bad",
        b'{"card": "card-1"}',
        *(msgspec.json.encode({"card": "card-1", "ts": at}) for at in later),
    ]
    today.write_bytes(b"\n".join([*good, *odd]))
    sent = eddy("produce", pipeline, "-i", today, *options)
    assert sent.returncode == 0, sent.stderr
    found = {
        value: at
        for fetch in read(config, topic_name)
        for value, at in zip(fetch.values, fetch.timestamps.tolist(), strict=True)
    }
    assert len(found) == len(good) + len(odd)
    for value in [*good, odd[3]]:
        assert found[value] == msgspec.json.decode(value)["ts"] * 10**6
    for value in odd[:3]:
        assert began <= found[value] + 10**6 <= time.time_ns() + 10**6


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "keyless"])
def test_a_topic_is_a_history_as_its_file_is(
    broker: Kafka, topic_name: str, tmp_path: Path, keyed: bool
) -> None:
    made = document(source={"topic": topic_name}, key_partitioned=keyed)
    made |= {
        "name": topic_name,
        "kafka": {"bootstrap": broker.bootstrap},
        "storage": str(tmp_path / "storage"),
        "partitions": 2,
    }
    pipeline, history = tmp_path / "pipeline.json", tmp_path / "history.jsonl"
    pipeline.write_bytes(msgspec.json.encode(made))
    history.write_bytes(b"\n".join(payments(2000, seed=1)))
    make_topic(broker, topic_name, partitions=2)
    options = [] if keyed else ["--no-key"]
    assert eddy("produce", pipeline, "-i", history, *options).returncode == 0
    ids = []
    for choice in (["-i", history], ["--from-topic"], ["--from-topic", "--to", "2020-01-01"]):
        done = eddy("fit", pipeline, *choice, "--json")
        ids += [row["model_id"] for row in msgspec.json.decode(done.stdout or "[]")]
    assert len(ids) == 2  # nothing in the topic is that old
    assert ids[0] == ids[1]
    assert "no usable record" in done.stderr
