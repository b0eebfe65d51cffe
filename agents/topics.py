"""The topics that a pipeline reads and writes."""

from __future__ import annotations

from connectors.kafka.admin import TopicSpec
from schemas.config import Pipeline as Config
from schemas.topics import Topics


def pipeline_topics(config: Config) -> dict[str, TopicSpec]:
    """List all topics of a pipeline by name, inputs included, with their settings."""
    topics, partitions = Topics(config.name), config.partitions
    wanted: dict[str, TopicSpec] = {}
    for name, stream in config.streams.items():
        wanted[stream.source.topic] = TopicSpec(partitions)
        if not stream.key_partitioned:
            wanted[topics.keyed(name)] = TopicSpec(partitions, sent_times=True)
        wanted[topics.scored(name)] = TopicSpec(partitions)
        wanted[topics.alerts(name)] = TopicSpec(partitions)
    wanted[topics.dead_letters] = TopicSpec(1)
    wanted[topics.retrain] = TopicSpec(1)
    wanted[topics.labels] = TopicSpec(1)
    wanted[topics.models] = TopicSpec(1, compacted=True)
    wanted[topics.accounts] = TopicSpec(1, compacted=True)
    return wanted
