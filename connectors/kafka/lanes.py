"""Messages on their way: sorted by the partition they go to, and sent in whole batches.

aiokafka's ``send`` costs a future and a look-up per message; batches built here and handed over
whole are about five times as fast.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder

from connectors.base import Output
from connectors.partitioner import partitions_of
from schemas.errors import DataError

__all__ = ["Lane", "Packer", "refusal"]

log = structlog.get_logger(__name__)

# Bytes of a batch before compression: large enough to amortise a request, well below the 1 MiB that
# a broker accepts by default, so that only single huge messages are ever too large.
BATCH_BYTES = 512 * 1024

# How long a topic's partitions may take to appear in the metadata before that is an error.
METADATA_SECONDS = 5.0

TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


@dataclass(slots=True)
class Lane:
    """What goes to one partition, in order; acknowledged messages are dropped from the front."""

    topic: str
    partition: int
    outputs: list[Output]
    error: Exception | None = None
    # messages in the batch that is under way
    batch: int = 0

    async def send(self, producer: AIOKafkaProducer) -> None:
        """Send batch by batch; stop at the first error, which keeps the order, and note it."""
        try:
            while self.outputs:
                builder = producer.create_batch()
                self.batch = _fill(builder, self.outputs)
                sent = await producer.send_batch(builder, self.topic, partition=self.partition)
                await sent
                del self.outputs[: self.batch]
        except (KafkaError, OSError) as error:
            self.error = error


class Packer:
    """Sorts messages into lanes, and finds out which size of batches the brokers take.

    Attributes
    ----------
    batch_bytes
        The size for the next producer.
    """

    def __init__(self) -> None:
        self.batch_bytes = BATCH_BYTES
        self._turns = itertools.count()

    async def lanes(self, producer: AIOKafkaProducer, outputs: Sequence[Output]) -> list[Lane]:
        """Sort messages by partition as Kafka's default partitioner does."""
        by_topic: defaultdict[str, list[Output]] = defaultdict(list)
        for output in outputs:
            by_topic[output.topic].append(output)
        lanes: list[Lane] = []
        for topic, messages in by_topic.items():
            count = await _partitions(producer, topic)
            keys = [output.key for output in messages if output.key is not None]
            numbers = iter(partitions_of(keys, count).tolist())
            # one partition per call for messages without a key: larger batches, even in the end
            turn = next(self._turns) % count
            shares: list[list[Output]] = [[] for _ in range(count)]
            for output in messages:
                shares[turn if output.key is None else next(numbers)].append(output)
            lanes += [Lane(topic, x, share) for x, share in enumerate(shares) if share]
        return lanes

    def too_large(self, lane: Lane) -> bool:
        """Tell whether a single message was too large; batches that were get smaller."""
        if not isinstance(lane.error, TOO_LARGE):
            return False
        if lane.batch == 1:
            return True
        self.batch_bytes = max(1, self.batch_bytes // 4)
        log.warning("smaller batches", topic=lane.topic, bytes=self.batch_bytes)
        return False


def refusal(refused: Sequence[Output]) -> DataError:
    """Say what becomes of messages that are too large."""
    first = refused[0]
    msg = (
        f"{len(refused)} message(s) are larger than their topic takes, the first with "
        f"{len(first.value)} bytes and the key {(first.key or b'')[:80]!r} to {first.topic}: raise "
        "`max.message.bytes` of the topic (and `replica.fetch.max.bytes` of the brokers), or make "
        "the messages smaller"
    )
    return DataError(msg)


async def _partitions(producer: AIOKafkaProducer, topic: str) -> int:
    try:
        async with asyncio.timeout(METADATA_SECONDS):
            return len(await producer.partitions_for(topic))
    except TimeoutError as error:
        msg = f"the topic {topic!r} does not exist, or has no leader"
        raise TimeoutError(msg) from error


def _fill(builder: BatchBuilder, outputs: list[Output]) -> int:
    """Put messages into a batch until it is full, one at least; return how many."""
    append = builder.append
    count = 0
    for _, key, value, timestamp, headers in outputs:
        added = append(timestamp=timestamp, key=key, value=value, headers=list(headers))
        if added is None:
            break
        count += 1
    builder.close()
    return count
