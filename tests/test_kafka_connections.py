"""A client leaves no connection open, whenever it is ended."""

from __future__ import annotations

import asyncio
import gc

import pytest
from aiokafka.client import AIOKafkaClient

from connectors.kafka.client import aiokafka_settings
from schemas.config import Kafka

pytestmark = pytest.mark.broker


async def ended_after(config: Kafka, turns: int) -> bool:
    """Begin to look for the cluster, and end that after some turns of the loop."""
    client = AIOKafkaClient(**aiokafka_settings(config))
    looking = asyncio.create_task(client.bootstrap())
    for _ in range(turns):
        await asyncio.sleep(0)
    done = looking.done()
    looking.cancel()
    await asyncio.wait([looking])
    await client.close()
    return done


def test_wherever_a_client_is_stopped_in_looking_for_its_cluster(config: Kafka) -> None:
    turns = 0
    while not asyncio.run(ended_after(config, turns)):
        gc.collect()  # what is open now is found here, and fails the test
        turns += 1 + turns // 4  # a slow broker is waited for in many turns
    assert turns > 3


def test_a_request_that_comes_too_late_opens_nothing(config: Kafka) -> None:
    async def work() -> None:
        client = AIOKafkaClient(**aiokafka_settings(config))
        await client.bootstrap()
        [broker] = client.cluster.brokers()
        await client.close()
        assert not await client.ready(broker.nodeId)

    asyncio.run(work())
    gc.collect()
