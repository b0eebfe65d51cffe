"""What was published, read with a client that shares no code with the worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from connectors.base import Fetch, Output
from connectors.kafka.log import LogReader
from schemas import messages
from schemas.config import Kafka
from schemas.messages import (
    Account,
    DeadLetter,
    Incident,
    Message,
    ModelEvent,
    RetrainRequest,
    ScoredEvent,
)
from schemas.topics import Topics
from tests.chaos.setting import STREAM, Setting

M = TypeVar("M", bound=Message)


@dataclass
class Published:
    """Messages of each kind, those of one key in the order of the log.

    ``champions`` are the ids of the models that workers were told of, in order.
    """

    scored: list[ScoredEvent] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    requests: list[RetrainRequest] = field(default_factory=list)
    champions: list[str] = field(default_factory=list)

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
    return _read(bootstrap, setting.topic)


def read_outputs(bootstrap: str, setting: Setting) -> Published:
    """Read all output topics to their ends."""
    topics = setting.topics

    def read(topic: str, kind: type[M]) -> list[M]:
        parts = _read(bootstrap, topic).values()
        return [messages.decode(value or b"", kind) for part in parts for value in part.values]

    champions = [x.artefact_id for x in read(topics.models, ModelEvent) if x.stage == "champion"]
    return Published(
        read(topics.scored(STREAM), ScoredEvent),
        read(topics.dead_letters, DeadLetter),
        read(topics.alerts(STREAM), Incident),
        read(topics.accounts, Account),
        read(topics.retrain, RetrainRequest),
        list(dict.fromkeys(champions)),
    )


def _read(bootstrap: str, topic: str) -> dict[int, Fetch]:
    """Read the partitions of a topic that hold anything."""
    found = {}
    with LogReader(Kafka(bootstrap=bootstrap)) as log:
        for partition, bounds in log.bounds(topic).items():
            parts = list(log.read(partition, bounds))
            if parts:
                found[partition.number] = Fetch.join(parts)
    return found
