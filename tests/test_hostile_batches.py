"""Batches on a real broker that expand beyond all bounds, and what a keyed topic must take."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from structlog.testing import capture_logs

from agents.decode import Decoder
from agents.rekey import RekeyHandler
from agents.topics import pipeline_topics
from connectors.base import Fetch, Output
from connectors.kafka.admin import end_offsets, ensure_topics
from connectors.kafka.bounded import BATCH_BYTES, TOO_LARGE
from connectors.kafka.source import KafkaSource
from schemas.config import Kafka
from schemas.parse import parse_pipeline
from tests.kafka_support import Notes, Running, committed, eventually, make_topic, values
from tests.pipelines import config as pipeline_config
from tests.pipelines import document, payments

pytestmark = pytest.mark.broker

BIG = 4 * BATCH_BYTES


def send(config: Kafka, topic: str, batches: Sequence[Sequence[bytes]], codec: str | None) -> None:
    """Write batches as given, whatever their size before compression."""

    async def main() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=config.bootstrap,
            compression_type=codec,
            max_batch_size=BIG,
            max_request_size=BIG,
        )
        await producer.start()
        try:
            for batch in batches:
                builder = producer.create_batch()
                for value in batch:
                    builder.append(timestamp=None, key=None, value=value)
                await (await producer.send_batch(builder, topic, partition=0))
        finally:
            await producer.stop()

    asyncio.run(main())


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_batches_of_every_codec_are_read(config: Kafka, topic_name: str, codec: str | None) -> None:
    make_topic(config, topic_name, partitions=1)
    random = os.urandom(200_000)
    batches = [[b"a", b""], [bytes(600_000), random], [b"%d" % i for i in range(1000)]]
    send(config, topic_name, batches, codec)
    assert values(config, topic_name) == [value for batch in batches for value in batch]


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_a_batch_that_expands_too_far_is_a_dead_letter(
    config: Kafka, topic_name: str, codec: str
) -> None:
    make_topic(config, topic_name, partitions=1)
    good = payments(3)
    bomb = [good[0], bytes(BATCH_BYTES), good[1]]
    send(config, topic_name, [good, bomb, good], codec)
    notes = Notes()
    with capture_logs() as logs, Running(config, topic_name, [topic_name], notes) as running:
        assert eventually(lambda: committed(config, topic_name) == end_offsets(config, topic_name))
        assert running.worker.status().healthy
    assert [offset for _, offset in notes.seen] == list(range(9))
    fetch = Fetch.join(notes.fetches)
    found = [value is TOO_LARGE for value in fetch.values]
    assert found == [False] * 3 + [True] * 3 + [False] * 3
    [told] = [entry for entry in logs if "expands too far" in entry["event"]]
    assert (told["first"], told["end"]) == (3, 6)
    made = pipeline_config()
    decoder = Decoder("payments", made.streams["payments"], made.limits)
    decoded = decoder(fetch)
    assert decoded.records.offset.tolist() == [0, 1, 2, 6, 7, 8]
    assert [(x.offset, x.reason) for x in decoded.dead_letters] == [
        (offset, "too_large") for offset in (3, 4, 5)
    ]
    assert decoder.keys(fetch)[3:6] == [None] * 3
    # readers outside a group pass it as well
    [again] = KafkaSource(config, topic_name).fetches()
    assert len(again) == 9


def test_the_keyed_topic_takes_whatever_comes(config: Kafka, topic_name: str) -> None:
    made: dict[str, Any] = document(source={"topic": topic_name}, key_partitioned=False) | {
        "name": topic_name,
        "kafka": {"bootstrap": config.bootstrap},
        "partitions": 1,
    }
    settings = parse_pipeline(made)
    ensure_topics(config, pipeline_topics(settings))
    limit = settings.limits.message_bytes
    rng = np.random.default_rng(0)
    # as large as an input topic lets through, and more than the limit where it lets more through
    large = [rng.bytes(limit - 200), rng.bytes(limit + 100_000)]
    handler = RekeyHandler(settings, "payments", lambda: set())
    offsets = np.arange(2)
    fetch = Fetch(
        next(iter(end_offsets(config, topic_name))), offsets, offsets, [b"k" * 900_000] * 2, large
    )
    handler.assigned({fetch.partition: 0}, 1)
    outputs: list[Output] = list(handler.process([fetch]).merged)
    assert [len(output.value) for output in outputs] == [limit - 200, limit + 1]

    class Rewriting(Notes):
        def process(self, fetches: list[Fetch]) -> Any:
            batch = super().process(fetches)
            return type(batch)(merged=outputs, positions=batch.positions)

    send(config, topic_name, [[b"x"]], None)
    with Running(config, topic_name, [topic_name], Rewriting()) as running:
        keyed = outputs[0].topic
        assert eventually(lambda: sum(end_offsets(config, keyed).values()) == 2)
        assert running.error is None
