"""What an undisturbed run publishes, computed partition by partition from the topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.pipeline import Pipeline
from connectors.base import Fetch, Partition, flatten
from connectors.kafka.records import to_fetch
from detectors.model import Model
from schemas.messages import Account
from tests.chaos.published import Published
from tests.chaos.setting import STREAM, Setting

FETCH = 8192
POLL_MS = 1000


def expect(setting: Setting, model: Model, ends: dict[int, int]) -> Published:
    """Take the records of each partition, up to its end, through a pipeline of its own."""
    return asyncio.run(_expect(setting, model, ends))


async def _expect(setting: Setting, model: Model, ends: dict[int, int]) -> Published:
    out = Published()
    for number, end in ends.items():
        pipeline = Pipeline(setting.config, lambda: 0)
        pipeline.apply(STREAM, setting.route, model)
        async for fetch in _read(setting, Partition(setting.topic, number), end):
            with np.errstate(over="ignore", invalid="ignore"):
                outputs = pipeline.process([fetch]).outputs
            for output in flatten(outputs):
                out.add(setting.topics, output)
        out.accounts += list[Account](pipeline.accounts())
    return out


async def _read(setting: Setting, partition: Partition, end: int) -> AsyncIterator[Fetch]:
    consumer = AIOKafkaConsumer(bootstrap_servers=setting.config.kafka.bootstrap)
    await consumer.start()
    try:
        place = TopicPartition(*partition)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        at = 0
        while at < end:
            batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=FETCH)
            for records in batches.values():
                at = records[-1].offset + 1
                yield to_fetch(partition, records)
    finally:
        await consumer.stop()
