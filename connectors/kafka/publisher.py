"""Publishing: whole batches per partition, in order, until every message is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from connectors.base import Output
from connectors.kafka.backoff import pauses
from connectors.kafka.health import Health
from connectors.kafka.lanes import TOO_LARGE, Lane, Packer, refusal
from connectors.kafka.producer import close_producer, new_producer, start_producer
from schemas.config import Kafka

__all__ = ["Publisher"]

# Without a single acknowledgement for so long the wait is reported …
REPORT_SECONDS = 5.0

# … and for so long the producer is given up for a new one: after an outage it can be stuck for
# good on a sequence number that the broker does not expect.
STALL_SECONDS = 60.0


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
        self._packer = Packer()
        self._lock = asyncio.Lock()

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
            raise refusal(refused)

    async def stop(self) -> None:
        """Close the connections; what is not acknowledged may be lost."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_producer(producer)

    async def _attempt(self, outputs: list[Output], refused: list[Output]) -> list[Output]:
        """Try once; return what is not acknowledged, in order, without what was refused."""
        try:
            producer = await self._connected()
            lanes = await self._packer.lanes(producer, outputs)
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
            producer = new_producer(self._config, self._compression, self._packer.batch_bytes)
            await start_producer(producer, STALL_SECONDS)
            self._producer = producer
        return self._producer

    async def _send_all(self, producer: AIOKafkaProducer, lanes: list[Lane]) -> None:
        """Send all lanes side by side; give up when nothing moves for long."""
        tasks = [asyncio.create_task(lane.send(producer)) for lane in lanes]
        pending = set(tasks)
        left, quiet = _left(lanes), 0.0
        try:
            while pending and quiet < STALL_SECONDS:
                _, pending = await asyncio.wait(pending, timeout=REPORT_SECONDS)
                moved = _left(lanes) < left
                left, quiet = _left(lanes), 0.0 if moved else quiet + REPORT_SECONDS
                if pending and not moved:
                    self._health.wait("publish", "the broker does not acknowledge messages")
        finally:
            for task in pending:
                task.cancel()
        for lane, task in zip(lanes, tasks, strict=True):
            if task in pending:
                lane.error = TimeoutError(f"no acknowledgement for {STALL_SECONDS:.0f} s")

    def _judge(self, lane: Lane, refused: list[Output]) -> None:
        """Make the next attempt differ from the one that failed."""
        if self._packer.too_large(lane):
            refused.append(lane.outputs[0])
            lane.outputs.clear()
        elif not isinstance(lane.error, TOO_LARGE):
            reason = f"cannot publish to {lane.topic}: {lane.error!r}"
            self._health.wait("publish", reason)


def _left(lanes: Sequence[Lane]) -> int:
    return sum(len(lane.outputs) for lane in lanes)
