"""A look at a topic before a worker runs on it."""

from __future__ import annotations

import msgspec
import pytest

from agents.sampling import Sample, sample_stream
from connectors.base import Output
from schemas.config import Kafka
from schemas.parse import parse_pipeline
from tests.kafka_support import fill, make_topic
from tests.pipelines import document, payments


def sampled(config: Kafka, topic: str, outputs: list[Output], per_partition: int) -> Sample:
    make_topic(config, topic)
    fill(config, topic, outputs)
    pipeline = parse_pipeline(document(source={"topic": topic}))
    pipeline = msgspec.structs.replace(pipeline, kafka=config)
    return sample_stream(pipeline, "payments", per_partition)


@pytest.mark.broker
def test_keys_on_one_partition_each_give_no_warning(config: Kafka, topic_name: str) -> None:
    rows = [
        Output(topic_name, msgspec.json.decode(value)["card"].encode(), value)
        for value in payments(200)
    ]
    rows.append(Output(topic_name, b"card-0", b"{"))
    found = sampled(config, topic_name, rows, 1_000)
    assert (found.records, found.keys, found.dead_letters) == (201, 5, {"not_json": 1})
    assert found.scattered == 0
    assert found.warning is None


@pytest.mark.broker
def test_keys_on_several_partitions_are_named_with_the_way_out(
    config: Kafka, topic_name: str
) -> None:
    rows = [Output(topic_name, str(i).encode(), value) for i, value in enumerate(payments(200))]
    found = sampled(config, topic_name, rows, 1_000)
    assert found.scattered == 5
    assert found.warning is not None
    assert "streams.payments.key_partitioned: 5 of 5 keys" in found.warning
    assert "set key_partitioned: false" in found.warning


@pytest.mark.broker
def test_only_the_newest_records_are_looked_at(config: Kafka, topic_name: str) -> None:
    rows = [Output(topic_name, str(i).encode(), value) for i, value in enumerate(payments(200))]
    assert sampled(config, topic_name, rows, 3).records == 12
