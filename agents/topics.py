"""The topics that a pipeline reads and writes."""

from __future__ import annotations

from connectors.kafka.admin import TopicSpec
from schemas.config import Pipeline as Config
from schemas.topics import Topics

ROOM_BYTES = 1 << 20


def pipeline_topics(config: Config) -> dict[str, TopicSpec]:
    """List all topics of a pipeline by name, inputs included, with their settings."""
    topics, partitions = Topics(config.name), config.partitions
    wanted: dict[str, TopicSpec] = {}
    for name, stream in config.streams.items():
        wanted[stream.source.topic] = TopicSpec(partitions)
        if not stream.key_partitioned:
            # whatever comes in fits into it, with its key and the header that tells its origin
            room = config.limits.message_bytes + ROOM_BYTES
            wanted[topics.keyed(name)] = TopicSpec(
                partitions, sent_times=True, max_message_bytes=room
            )
        wanted[topics.scored(name)] = TopicSpec(partitions)
        wanted[topics.alerts(name)] = TopicSpec(partitions)
    wanted[topics.dead_letters] = TopicSpec(1)
    wanted[topics.retrain] = TopicSpec(1)
    wanted[topics.labels] = TopicSpec(1)
    wanted[topics.models] = TopicSpec(1, compacted=True)
    wanted[topics.accounts] = TopicSpec(1, compacted=True)
    return wanted
