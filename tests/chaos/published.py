"""What was published, read with a client that shares no code with the worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition

from connectors.base import Fetch, Output, Partition
from connectors.kafka.records import to_fetch
from schemas import messages
from schemas.messages import (
    Account,
    DeadLetter,
    Incident,
    Message,
    RetrainRequest,
    ScoredEvent,
)
from schemas.topics import Topics
from tests.chaos.setting import STREAM, Setting

M = TypeVar("M", bound=Message)
POLL_MS = 500


@dataclass
class Published:
    """Messages of each kind, those of one key in the order of the log."""

    scored: list[ScoredEvent] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    requests: list[RetrainRequest] = field(default_factory=list)

    def add(self, topics: Topics, output: Output) -> None:
        """Add a message that a pipeline wants published."""
        if output.topic == topics.scored(STREAM):
            self.scored.append(messages.decode(output.value, ScoredEvent))
        elif output.topic == topics.dead_letters:
            self.letters.append(messages.decode(output.value, DeadLetter))
        elif output.topic == topics.alerts(STREAM):
            self.incidents.append(messages.decode(output.value, Incident))
        elif output.topic == topics.retrain:
            self.requests.append(messages.decode(output.value, RetrainRequest))


def read_inputs(bootstrap: str, setting: Setting) -> dict[int, Fetch]:
    """Read the input topic to its end."""
    records = _read(bootstrap, setting.topic)
    return {
        number: to_fetch(Partition(setting.topic, number), part)
        for number, part in records.items()
        if part
    }


def read_outputs(bootstrap: str, setting: Setting) -> Published:
    """Read all output topics to their ends."""
    topics = setting.topics

    def read(topic: str, kind: type[M]) -> list[M]:
        parts = _read(bootstrap, topic).values()
        return [messages.decode(record.value, kind) for part in parts for record in part]

    return Published(
        read(topics.scored(STREAM), ScoredEvent),
        read(topics.dead_letters, DeadLetter),
        read(topics.alerts(STREAM), Incident),
        read(topics.accounts, Account),
        read(topics.retrain, RetrainRequest),
    )


def _read(bootstrap: str, topic: str) -> dict[int, list[Any]]:
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap.split(","),
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    try:
        numbers = consumer.partitions_for_topic(topic) or set()
        places = [TopicPartition(topic, number) for number in numbers]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = consumer.end_offsets(places)
        found: dict[int, list[Any]] = {place.partition: [] for place in places}
        while any(consumer.position(place) < ends[place] for place in places):
            for place, records in consumer.poll(POLL_MS).items():
                found[place.partition] += records
        return found
    finally:
        consumer.close()
