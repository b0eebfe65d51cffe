"""Deployments whose outputs a test makes up: what a worker would publish, and then forged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from agents.pipeline import Pipeline
from agents.publish import Envelope
from agents.topics import pipeline_topics
from connectors.base import Fetch, Output, Partition, flatten
from connectors.kafka.admin import ensure_topics
from connectors.kafka.log import LogReader
from detectors.model import Model
from schemas import messages
from schemas.config import Pipeline as Config
from schemas.messages import Account, DeadLetter, Incident, ScoredEvent
from schemas.parse import parse_pipeline
from schemas.topics import Topics
from tests.kafka_support import fill
from tests.pipelines import document

STREAM = "payments"


@dataclass
class Forgery:
    """What is to be published, and committed."""

    scored: list[ScoredEvent] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    commits: dict[Partition, int] = field(default_factory=dict)

    def change_account(self, **changes: int) -> None:
        """Add to counts of the first account."""
        now = {name: getattr(self.accounts[0], name) + more for name, more in changes.items()}
        self.accounts[0] = msgspec.structs.replace(self.accounts[0], **now)

    def change_event(self, index: int, **changes: Any) -> ScoredEvent:
        """Return an event with changes."""
        return msgspec.structs.replace(self.scored[index], **changes)


def configured(bootstrap: str, name: str, topic: str, **changes: Any) -> Config:
    """A deployment that reads ``topic``."""
    more = {key: changes.pop(key) for key in ("delivery",) if key in changes}
    return parse_pipeline(
        document(**{"source": {"topic": topic}, **changes})
        | {"name": name, "kafka": {"bootstrap": bootstrap}, "partitions": 2, **more}
    )


def honest(config: Config, models: Mapping[str, Model], unaccounted: int = 0) -> Forgery:
    """What a worker publishes that nothing happens to; of the last records it does not account."""
    pipeline, made = Pipeline(config, lambda: 0), Forgery()
    for route, speaking in models.items():
        pipeline.apply(STREAM, route, speaking)
    outputs: list[Output] = []
    with LogReader(config.kafka) as log:
        for partition, bounds in log.bounds(config.streams[STREAM].source.topic).items():
            made.commits[partition] = bounds.end
            parts = list(log.read(partition, bounds))
            if not parts:
                continue
            whole = Fetch.join(parts)
            early, rest = whole[: len(whole) - unaccounted], whole[len(whole) - unaccounted :]
            outputs += flatten(pipeline.process([early]).outputs)
            mine = [x for x in pipeline.accounts() if x.partition == partition.number]
            made.accounts += mine
            outputs += flatten(pipeline.process([rest]).outputs)
    names = Topics(config.name)
    for topic, _, value, *_ in outputs:
        if topic == names.scored(STREAM):
            made.scored.append(messages.decode(value, ScoredEvent))
        elif topic == names.dead_letters:
            made.letters.append(messages.decode(value, DeadLetter))
        elif topic == names.alerts(STREAM):
            made.incidents.append(messages.decode(value, Incident))
    return made


def publish(config: Config, forged: Forgery) -> None:
    """Make the deployment: its topics with these messages, and the commits of its group."""
    envelope = Envelope(Topics(config.name))
    ensure_topics(config.kafka, pipeline_topics(config))
    scored = envelope.topics.scored(STREAM)
    wrapped: list[Sequence[Output]] = [
        [Output(scored, b"", messages.encode(event)) for event in forged.scored],
        [envelope.dead_letter(letter) for letter in forged.letters],
        [envelope.incident(incident) for incident in forged.incidents],
        [envelope.account(account) for account in forged.accounts],
    ]
    for outputs in wrapped:
        fill(config.kafka, "", outputs)
    commit(config, forged.commits)


def commit(config: Config, commits: Mapping[Partition, int]) -> None:
    """Commit offsets as the workers' group."""
    group = Topics(config.name).worker_group
    consumer = KafkaConsumer(bootstrap_servers=config.kafka.bootstrap, group_id=group)
    try:
        consumer.commit(
            {TopicPartition(*place): OffsetAndMetadata(at, "", -1) for place, at in commits.items()}
        )
    finally:
        consumer.close()
