"""Topics: create the missing ones, and look at what is there."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    KafkaError,
    KafkaTimeoutError,
    TopicAlreadyExistsError,
)
from kafka.protocol.consumer.offsets import OffsetSpec

from connectors.base import Partition
from connectors.kafka.backoff import pauses
from connectors.kafka.client import kafka_python_settings
from schemas.config import Kafka
from schemas.errors import SetupError

__all__ = [
    "Ends",
    "Identity",
    "TopicReport",
    "TopicSpec",
    "are_compacted",
    "committed_offsets",
    "end_offsets",
    "ensure_topics",
    "errors_told",
    "identify",
    "topic_ends",
    "topic_partitions",
    "wait_for_broker",
]

log = structlog.get_logger(__name__)

BOOTSTRAP_MS = 5_000
LEAST_MS = 500
READY_MS = 30_000
NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be.

    Attributes
    ----------
    partitions
        Number of partitions.
    compacted
        Whether only the last message of each key is kept; otherwise messages expire by age.
    retention_ms
        Age at which messages expire; None leaves it to the broker.
    max_message_bytes
        Largest batch; None leaves it to the broker.
    sent_times
        Whether records surely bear the time that their sender gave them; otherwise the broker may
        be set to put in its own.
    """

    partitions: int = 1
    compacted: bool = False
    retention_ms: int | None = None
    max_message_bytes: int | None = None
    sent_times: bool = False

    def settings(self) -> dict[str, str]:
        """Return the topic's settings as the broker names them."""
        settings = {"cleanup.policy": "compact" if self.compacted else "delete"}
        if self.retention_ms is not None:
            settings["retention.ms"] = str(self.retention_ms)
        if self.max_message_bytes is not None:
            settings["max.message.bytes"] = str(self.max_message_bytes)
        if self.sent_times:
            settings["message.timestamp.type"] = "CreateTime"
        return settings


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What :func:`ensure_topics` found and did.

    ``mismatched`` holds, for topics whose number of partitions is another one, the number found
    and the number asked for. It is never changed: keys would move to other partitions.
    """

    created: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a cluster and its topics from others of the same name.

    Attributes
    ----------
    cluster_id
        Id of the cluster.
    topic_ids
        Id of each topic by name, written as Kafka's own tools do. A topic that is deleted and made
        again gets another one.
    """

    cluster_id: str
    topic_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ends:
    """Where a topic ends.

    Attributes
    ----------
    offsets
        For each partition the offset that its next record will get.
    newest
        The newest of the log's times, ns since 1970 UTC; 0 if there is no record.
    """

    offsets: Mapping[int, int]
    newest: int


def ensure_topics(config: Kafka, topics: Mapping[str, TopicSpec]) -> TopicReport:
    """Create the topics that are missing, and return when all of them have leaders.

    Raises
    ------
    SetupError
        If the broker cannot be reached, or refuses.
    """
    report = TopicReport()
    with _admin(config) as admin:
        found = _described(admin, list(topics))
        for name, spec in topics.items():
            if name not in found and _create(admin, name, spec, config.replication):
                report.created.append(name)
        if topics:
            admin.wait_for_topics(list(topics), timeout_ms=READY_MS)
        found = _all_described(admin, config, list(topics))
    for name, spec in topics.items():
        if found[name] != spec.partitions:
            report.mismatched[name] = (found[name], spec.partitions)
        elif name not in report.created:
            report.existing.append(name)
    return report


def topic_partitions(config: Kafka, topic: str) -> int | None:
    """Return a topic's number of partitions, or None if there is no such topic.

    Raises
    ------
    SetupError
        If the broker cannot be reached, or refuses.
    """
    with _admin(config) as admin:
        return _described(admin, [topic]).get(topic)


def identify(config: Kafka, topics: Iterable[str]) -> Identity:
    """Return the ids of the cluster and of topics; a topic that there is not is left out.

    Raises
    ------
    SetupError
        If the broker cannot be reached, refuses, or is too old to have ids.
    """
    wanted = list(topics)
    with _admin(config) as admin:
        cluster_id = admin.describe_cluster()["cluster_id"]
        # not all brokers take an empty list for "none": some describe all topics
        found = admin.describe_topics(wanted) if wanted else []
    ids = {x["name"]: x.get("topic_id") for x in found if not x["error_code"]}
    if cluster_id is None or None in ids.values():
        msg = f"the Kafka broker at {config.bootstrap} has no ids: Eddy needs Kafka 2.8 or later"
        raise SetupError(msg)
    return Identity(cluster_id, {name: _as_kafka(topic_id) for name, topic_id in ids.items()})


def end_offsets(config: Kafka, topic: str) -> dict[Partition, int]:
    """Return for each partition the offset that its next record will get.

    Raises
    ------
    SetupError
        If there is no such topic, or the broker cannot be reached.
    """
    count = topic_partitions(config, topic)
    if count is None:
        msg = f"there is no topic {topic!r} on {config.bootstrap}: create it (`eddy topics`)"
        raise SetupError(msg)
    with errors_told(config):
        consumer = KafkaConsumer(**kafka_python_settings(config), bootstrap_timeout_ms=BOOTSTRAP_MS)
        try:
            wanted = [TopicPartition(topic, number) for number in range(count)]
            ends = consumer.end_offsets(wanted)
        finally:
            consumer.close()
    return {Partition(topic, place.partition): int(end) for place, end in ends.items()}


def topic_ends(config: Kafka, topic: str) -> Ends:
    """Tell where the partitions of a topic end, and the newest time in them.

    Raises
    ------
    SetupError
        If there is no such topic, or the broker cannot be reached.
    """
    with _admin(config) as admin:
        count = _described(admin, [topic]).get(topic)
        if count is None:
            msg = f"there is no topic {topic!r} on {config.bootstrap}: create it (`eddy topics`)"
            raise SetupError(msg)
        places = [TopicPartition(topic, number) for number in range(count)]
        ends = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
        newest = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.MAX_TIMESTAMP))
    times = [found.timestamp for found in newest.values()]
    offsets = {place.partition: int(end.offset) for place, end in ends.items()}
    return Ends(offsets, max(0, *times) * NS_PER_MS)


def committed_offsets(config: Kafka, group: str) -> dict[Partition, int]:
    """Return a group's commits; none of a group that there is not.

    Raises
    ------
    SetupError
        If the broker cannot be reached, or refuses.
    """
    with _admin(config) as admin:
        try:
            offsets = admin.list_group_offsets([group])[group]
        except (
            CoordinatorLoadInProgressError,
            CoordinatorNotAvailableError,
            GroupIdNotFoundError,
        ):
            # the group has not met on this broker yet
            return {}
    return {Partition(x.topic, x.partition): y.offset for x, y in offsets.items() if y.offset >= 0}


def are_compacted(config: Kafka, topics: Iterable[str]) -> dict[str, bool]:
    """Tell of topics whether records that are not the last of their key may be removed.

    Raises
    ------
    SetupError
        If the broker cannot be reached, or refuses.
    """
    name = "cleanup.policy"
    wanted = [ConfigResource("topic", topic, {name: None}) for topic in topics]
    with _admin(config) as admin:
        found = admin.describe_configs(wanted, config_filter="all")["topic"]
    return {topic: "compact" in settings[name]["value"] for topic, settings in found.items()}


def wait_for_broker(config: Kafka, deadline_seconds: float) -> None:
    """Return when the broker answers.

    Raises
    ------
    SetupError
        If it does not within the time.
    """
    end = time.monotonic() + deadline_seconds
    for pause in pauses():
        try:
            left_ms = round(1000 * (end - time.monotonic()))
            with _admin(config, min(BOOTSTRAP_MS, max(LEAST_MS, left_ms))) as admin:
                admin.describe_cluster()
                return
        except SetupError:
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)


def _create(admin: KafkaAdminClient, name: str, spec: TopicSpec, replication: int) -> bool:
    """Create a topic; False if somebody else has done so meanwhile."""
    topic = {
        "num_partitions": spec.partitions,
        "replication_factor": replication,
        "configs": spec.settings(),
    }
    try:
        admin.create_topics({name: topic})
    except TopicAlreadyExistsError:
        return False
    except ValueError as error:
        # The topic is made: refusals are raised before kafka-python reads how the answer describes
        # the settings, where a source of -1, the protocol's "not told", is none that it knows.
        log.debug("the broker does not tell the settings", topic=name, reason=str(error))
    return True


def _as_kafka(topic_id: str) -> str:
    """Write a UUID as Kafka does: base64 in letters that files and URLs may have, unpadded."""
    return base64.urlsafe_b64encode(uuid.UUID(topic_id).bytes).decode().rstrip("=")


def _all_described(admin: KafkaAdminClient, config: Kafka, topics: list[str]) -> dict[str, int]:
    """Describe topics that have just been made: a node may not have heard of them yet."""
    end = time.monotonic() + READY_MS / 1000
    for pause in pauses():
        found = _described(admin, topics)
        missing = sorted(set(topics) - found.keys())
        if not missing:
            return found
        if time.monotonic() + pause > end:
            msg = f"{config.bootstrap} does not show {missing[0]!r}, which was made: try again"
            raise SetupError(msg)
        time.sleep(pause)
    raise AssertionError  # pauses never end


def _described(admin: KafkaAdminClient, topics: list[str]) -> dict[str, int]:
    """Return the number of partitions of those topics that exist."""
    if not topics:
        return {}
    found = admin.describe_topics(topics)
    return {x["name"]: len(x["partitions"]) for x in found if not x["error_code"]}


@contextmanager
def _admin(config: Kafka, bootstrap_ms: int = BOOTSTRAP_MS) -> Iterator[KafkaAdminClient]:
    with errors_told(config):
        admin = KafkaAdminClient(**kafka_python_settings(config), bootstrap_timeout_ms=bootstrap_ms)
        try:
            yield admin
        finally:
            admin.close()


@contextmanager
def errors_told(config: Kafka) -> Iterator[None]:
    """Say what the clients' errors mean and what to do."""
    try:
        yield
    except KafkaTimeoutError as error:
        msg = f"no Kafka broker answers at {config.bootstrap}: check `kafka.bootstrap` ({error})"
        raise SetupError(msg) from error
    except KafkaError as error:
        msg = f"the Kafka broker at {config.bootstrap} refused: {error!r}"
        raise SetupError(msg) from error
