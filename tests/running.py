"""A worker as a process of its own, and a reader that shares no code with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from schemas import messages
from schemas.messages import Account, ScoredEvent

POLL_SECONDS = 0.2


def consume(bootstrap: str, topic: str, isolation_level: str = "read_committed") -> list[bytes]:
    """Read a topic to its end with a client of its own."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, isolation_level=isolation_level
    )
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
def killed(pipeline: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agents", "run", str(pipeline), "--port", "0"]
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def worker(pipeline: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is asked to stop at the end, and does so in order."""
    with killed(pipeline) as process:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


def accounts(bootstrap: str, topic: str) -> list[Account]:
    """The newest account of each partition."""
    found = [messages.decode(value, Account) for value in consume(bootstrap, topic)]
    return list({(account.topic, account.partition): account for account in found}.values())


def wait_for(bootstrap: str, topic: str, records: int, seconds: float) -> list[Account]:
    """Return the accounts once they speak of so many records."""
    limit = time.monotonic() + seconds
    found: list[Account] = []
    while sum(account.records_in for account in found) < records:
        assert time.monotonic() < limit, f"the worker did not get through: {found}"
        time.sleep(POLL_SECONDS)
        found = accounts(bootstrap, topic)
    return found


def wait_for_messages(bootstrap: str, topic: str, count: int, seconds: float) -> None:
    """Return once so many messages stand in a topic."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    limit = time.monotonic() + seconds
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        while sum(consumer.end_offsets(partitions).values()) < count:
            assert time.monotonic() < limit, f"{topic} does not get {count} messages"
            time.sleep(POLL_SECONDS / 10)
    finally:
        consumer.close()


def by_id(values: Sequence[bytes]) -> dict[str, ScoredEvent]:
    """Scored events by their ids, which are distinct."""
    events = [messages.decode(value, ScoredEvent) for value in values]
    found = {event.event_id: event for event in events}
    assert len(found) == len(events), "an event was published twice"
    return found
