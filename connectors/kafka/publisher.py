"""Publishing: whole batches per partition, in order, until every message is acknowledged.

aiokafka's ``send`` costs a future and a look-up per message; batches built here and handed over
whole are about five times as fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder

from connectors.base import Output
from connectors.kafka.backoff import pauses
from connectors.kafka.client import aiokafka_settings
from connectors.kafka.health import Health
from connectors.partitioner import partitions_of
from schemas.config import Kafka
from schemas.errors import DataError

__all__ = ["Publisher"]

log = structlog.get_logger(__name__)

# Bytes of a batch before compression: large enough to amortise a request, well below the 1 MiB that
# a broker accepts by default, so that only single huge messages are ever too large.
BATCH_BYTES = 512 * 1024

# Without a single acknowledgement for so long the wait is reported …
REPORT_SECONDS = 5.0

# … and for so long the producer is given up for a new one: after an outage it can be stuck for
# good on a sequence number that the broker does not expect.
STALL_SECONDS = 60.0

# How long a topic's partitions may take to appear in the metadata before that is an error.
METADATA_SECONDS = 5.0

# Closing a producer that cannot deliver must not hold up the end of the process.
CLOSE_SECONDS = 2.0

TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


@dataclass(slots=True)
class _Lane:
    """What goes to one partition, in order; acknowledged messages are dropped from the front."""

    topic: str
    partition: int
    outputs: list[Output]
    error: Exception | None = None
    # messages in the batch that is under way
    batch: int = 0


class Publisher:
    """Publishes messages with acks from all replicas, idempotently; belongs to one event loop.

    Messages with the same topic and key keep their order. A broker that is away is waited for.

    Parameters
    ----------
    config
        The connection.
    health
        Where waits are reported.
    compression
        ``zstd``, ``lz4``, ``snappy``, ``gzip`` or None. Measured with the codecs at hand, zstd
        costs a seventh of lz4's time and leaves less.
    """

    def __init__(
        self, config: Kafka, health: Health | None = None, compression: str | None = "zstd"
    ) -> None:
        self._config = config
        self._health = health or Health()
        self._compression = compression
        self._producer: AIOKafkaProducer | None = None
        self._batch_bytes = BATCH_BYTES
        self._turns = itertools.count()
        self._lock = asyncio.Lock()
        self._acknowledged = 0

    async def publish(self, outputs: Sequence[Output]) -> None:
        """Publish messages and return when all of them are acknowledged.

        Raises
        ------
        DataError
            If a message is larger than its topic takes. Those after it in its partition are not
            published either: nobody shall find them there and believe that it is there too.
        """
        async with self._lock:
            left = list(outputs)
            refused: list[Output] = []
            delays = pauses()
            while left:
                count = len(left)
                left = await self._attempt(left, refused)
                if len(left) < count:
                    delays = pauses()
                if left:
                    await asyncio.sleep(next(delays))
            self._health.done("publish")
        if refused:
            raise DataError(_describe(refused))

    async def stop(self) -> None:
        """Close the connections; what is not acknowledged may be lost."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _close(producer)

    async def _attempt(self, outputs: list[Output], refused: list[Output]) -> list[Output]:
        """Try once; return what is not acknowledged, in order, without what was refused."""
        try:
            producer = await self._connected()
            lanes = await self._lanes(producer, outputs)
        except (KafkaError, OSError, TimeoutError) as error:
            self._health.wait("publish", f"cannot reach the broker to publish: {error!r}")
            await self.stop()
            return outputs
        await self._send_all(producer, lanes)
        failed = [lane for lane in lanes if lane.error is not None]
        if failed:
            # A batch that failed leaves a hole in the sequence numbers of its partition, so that
            # the broker would refuse all that follow from this producer.
            await self.stop()
        for lane in failed:
            self._judge(lane, refused)
        return [output for lane in failed for output in lane.outputs]

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **aiokafka_settings(self._config),
                acks="all",
                enable_idempotence=True,
                compression_type=self._compression,
                max_batch_size=self._batch_bytes,
                request_timeout_ms=20_000,
            )
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await producer.start()
            except BaseException:
                await _close(producer)
                raise
            self._producer = producer
        return self._producer

    async def _lanes(self, producer: AIOKafkaProducer, outputs: list[Output]) -> list[_Lane]:
        """Sort messages by partition as Kafka's default partitioner does."""
        by_topic: defaultdict[str, list[Output]] = defaultdict(list)
        for output in outputs:
            by_topic[output.topic].append(output)
        lanes: list[_Lane] = []
        for topic, messages in by_topic.items():
            count = await self._partitions(producer, topic)
            keys = [output.key for output in messages if output.key is not None]
            numbers = iter(partitions_of(keys, count).tolist())
            # one partition per call for messages without a key: larger batches, even in the end
            turn = next(self._turns) % count
            shares: list[list[Output]] = [[] for _ in range(count)]
            for output in messages:
                shares[turn if output.key is None else next(numbers)].append(output)
            lanes += [_Lane(topic, x, share) for x, share in enumerate(shares) if share]
        return lanes

    async def _partitions(self, producer: AIOKafkaProducer, topic: str) -> int:
        try:
            async with asyncio.timeout(METADATA_SECONDS):
                return len(await producer.partitions_for(topic))
        except TimeoutError as error:
            msg = f"the topic {topic!r} does not exist, or has no leader"
            raise TimeoutError(msg) from error

    async def _send_all(self, producer: AIOKafkaProducer, lanes: list[_Lane]) -> None:
        """Send all lanes side by side; give up when nothing moves for long."""
        tasks = [asyncio.create_task(self._send(producer, lane)) for lane in lanes]
        pending = set(tasks)
        seen, quiet = self._acknowledged, 0.0
        try:
            while pending and quiet < STALL_SECONDS:
                _, pending = await asyncio.wait(pending, timeout=REPORT_SECONDS)
                moved = self._acknowledged > seen
                seen, quiet = self._acknowledged, 0.0 if moved else quiet + REPORT_SECONDS
                if pending and not moved:
                    self._health.wait("publish", "the broker does not acknowledge messages")
        finally:
            for task in pending:
                task.cancel()
        for lane, task in zip(lanes, tasks, strict=True):
            if task in pending:
                lane.error = TimeoutError(f"no acknowledgement for {STALL_SECONDS:.0f} s")

    async def _send(self, producer: AIOKafkaProducer, lane: _Lane) -> None:
        """Send one lane batch by batch; it stops at its first error, which keeps the order."""
        try:
            while lane.outputs:
                builder = producer.create_batch()
                lane.batch = _fill(builder, lane.outputs)
                sent = await producer.send_batch(builder, lane.topic, partition=lane.partition)
                await sent
                self._acknowledged += lane.batch
                del lane.outputs[: lane.batch]
        except (KafkaError, OSError) as error:
            lane.error = error

    def _judge(self, lane: _Lane, refused: list[Output]) -> None:
        """Make the next attempt differ from the one that failed."""
        if not isinstance(lane.error, TOO_LARGE):
            reason = f"cannot publish to {lane.topic}: {lane.error!r}"
            self._health.wait("publish", reason)
        elif lane.batch == 1:
            refused.append(lane.outputs[0])
            lane.outputs.clear()
        else:
            self._batch_bytes = max(1, self._batch_bytes // 4)
            log.warning("smaller batches", topic=lane.topic, bytes=self._batch_bytes)


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


def _describe(refused: list[Output]) -> str:
    first = refused[0]
    return (
        f"{len(refused)} message(s) are larger than their topic takes, the first with "
        f"{len(first.value)} bytes and the key {(first.key or b'')[:80]!r} to {first.topic}: raise "
        "`max.message.bytes` of the topic (and `replica.fetch.max.bytes` of the brokers), or make "
        "the messages smaller"
    )


async def _close(producer: AIOKafkaProducer) -> None:
    """Close a producer whatever state it is in; its own ``stop`` waits for what cannot be sent."""
    stopping = asyncio.ensure_future(producer.stop())
    await asyncio.wait([stopping], timeout=CLOSE_SECONDS)
    if not stopping.done():
        await _drop(producer)
        await asyncio.wait([stopping], timeout=CLOSE_SECONDS)
    stopping.cancel()
    if stopping.cancelled() or not stopping.done() or stopping.exception() is not None:
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await producer.client.close()


async def _drop(producer: AIOKafkaProducer) -> None:
    """Cancel what ``stop`` waits for: it is published by another producer."""
    # ruff: noqa: SLF001 (there is no public way)
    sender, accumulator = producer._sender, producer._message_accumulator
    task = sender.sender_task
    if task is not None:
        # it would report the end of its task to a transaction that there is not, and fail
        task.remove_done_callback(sender._fail_all)
        task.cancel()
        await asyncio.wait([task], timeout=CLOSE_SECONDS)
    # A batch that waits for another try takes itself off this list, though it is not on it.
    accumulator._pending_batches.update(*accumulator._batches.values())
    for batch in list(accumulator._pending_batches):
        batch.future.cancel()
