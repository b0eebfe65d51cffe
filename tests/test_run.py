"""The worker on a real broker publishes what replay computes: all of it, each event once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaConsumer, TopicPartition

from connectors.broker import Broker
from schemas import messages
from schemas.config import Kafka
from schemas.messages import Account, ScoredEvent
from tests.kafka_support import make_topic, read
from tests.pipelines import document, payments
from tests.test_cli import eddy

pytestmark = pytest.mark.broker
RECORDS = 3000
PATIENCE = 90.0


def consume(bootstrap: str, topic: str) -> list[bytes]:
    """Read a topic to its end with a client of its own."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        values: list[bytes] = []
        while any(consumer.position(p) < ends[p] for p in partitions):
            for records in consumer.poll(500).values():
                values += [record.value for record in records]
        return values
    finally:
        consumer.close()


@contextmanager
def worker(pipeline: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "agents", "run", str(pipeline), "--port", "0"]
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def accounted(bootstrap: str, topic: str) -> int:
    newest: dict[int, int] = {}
    for value in consume(bootstrap, topic):
        account = messages.decode(value, Account)
        newest[account.partition] = account.records_in
    return sum(newest.values())


def by_id(values: list[bytes]) -> dict[str, ScoredEvent]:
    events = [messages.decode(value, ScoredEvent) for value in values]
    found = {event.event_id: event for event in events}
    assert len(found) == len(events), "an event was published twice"
    return found


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
        limit = time.monotonic() + PATIENCE
        while accounted(broker.bootstrap, f"{topic_name}.accounts") < RECORDS:
            assert time.monotonic() < limit, "the worker did not get through"
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
    broker: Broker, topic_name: str, tmp_path: Path, options: list[str]
) -> None:
    made = document(source={"topic": topic_name}) | {"kafka": {"bootstrap": broker.bootstrap}}
    pipeline, today = tmp_path / "pipeline.json", tmp_path / "today.jsonl"
    pipeline.write_bytes(msgspec.json.encode(made))
    config = Kafka(bootstrap=broker.bootstrap)
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
