"""What the benchmarks ask of a consumer group."""

from __future__ import annotations

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import CoordinatorNotAvailableError
from kafka.structs import OffsetAndMetadata

from connectors.base import Partition
from connectors.kafka.client import kafka_python_settings
from schemas.config import Kafka

__all__ = ["commit", "stable_members"]


def commit(config: Kafka, group: str, partition: Partition, offset: int) -> None:
    """Set the committed offset of a group without members."""
    consumer = KafkaConsumer(**kafka_python_settings(config), group_id=group)
    try:
        place = TopicPartition(*partition)
        consumer.assign([place])
        consumer.commit({place: OffsetAndMetadata(offset, "", -1)})
    finally:
        consumer.close()


def stable_members(config: Kafka, group: str) -> int:
    """Return how many members a group has, 0 while it shares out its partitions or has none."""
    admin = KafkaAdminClient(**kafka_python_settings(config))
    try:
        found = admin.describe_groups([group])[group]
    except CoordinatorNotAvailableError:  # a cluster makes the topic of commits at first use
        return 0
    finally:
        admin.close()
    return len(found["members"]) if found["group_state"] == "Stable" else 0
