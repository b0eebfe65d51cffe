"""The producer of one input partition, and its transactions, one after the other."""

# ruff: noqa: SLF001 (what a transaction is at is not public)

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.structs import OffsetAndMetadata

from connectors.base import Output, Partition
from connectors.kafka.backoff import pauses
from connectors.kafka.delivery import Lost
from connectors.kafka.health import Health
from connectors.kafka.lanes import Lane, Packer, refusal
from connectors.kafka.producer import close_producer, new_producer, start_producer
from schemas.config import Kafka

__all__ = ["Writer"]

# A transaction that takes so long is reported …
REPORT_SECONDS = 5.0

# … and given up for another attempt after so long …
TRANSACTION_SECONDS = 60.0

# … well before the broker itself aborts it, and shuts its producer out. As long as it is open,
# those who read only what is committed wait for it: so not for ever.
TIMEOUT_MS = 120_000

# Starting a producer may have to wait until the broker has aborted its predecessor's transaction.
START_SECONDS = 10.0

# A transaction that begins right after another one is refused until that has settled, which takes
# milliseconds; aiokafka's usual wait of 100 would be most of the time of a transaction.
RETRY_MS = 20

# What is under way is aborted when its partition is given up, if the broker answers.
ABORT_SECONDS = 1.0

# aiokafka asserts what state a transaction is in, and so tells of one that has failed meanwhile.
FAILURES = (KafkaError, OSError, TimeoutError, AssertionError)


class Writer:
    """Delivers for one partition as long as it is ours, one transaction after the other.

    Attributes
    ----------
    committed
        The group's commit, as we know it.
    """

    def __init__(
        self,
        partition: Partition,
        config: Kafka,
        group: str,
        commit_of: Callable[[Partition], Awaitable[int]],
        memo_of: Callable[[Partition], str],
        health: Health,
        compression: str | None,
    ) -> None:
        self.committed = 0
        self._partition = partition
        self._config, self._group, self._compression = config, group, compression
        self._commit_of, self._memo_of = commit_of, memo_of
        self._health = health
        self._part = f"transaction of {partition.topic}/{partition.number}"
        self._packer = Packer()
        self._producer: AIOKafkaProducer | None = None
        self._lost = False

    async def take_on(self) -> None:
        """Shut out all predecessors."""
        await self._start()
        self._health.done(self._part)

    async def deliver(self, outputs: Sequence[Output], position: int | None) -> int | None:
        """Publish messages together with a new offset; return it, if it is beyond the commit.

        An attempt that fails is followed by another one. In between, a new producer has the broker
        abort what is left of it; or else it turns out to have been committed all the same.
        """
        offset = None if position is None or position <= self.committed else position
        if offset is None and (self._lost or not outputs):
            return None
        if self._lost:
            why = "its partition was lost before"
            raise self._lose(why)
        for pause in pauses():
            if await self._attempt(outputs, offset):
                break
            await asyncio.sleep(pause)
            await self._start()
            if offset is not None and await self._is_committed(offset):
                break
        self._health.done(self._part)
        if offset is not None:
            self.committed = offset
        return offset

    async def close(self) -> None:
        """Give the partition up; an open transaction is aborted, if the broker answers."""
        producer = self._producer
        if producer is not None and producer._txn_manager.is_in_transaction():
            with contextlib.suppress(*FAILURES):
                async with asyncio.timeout(ABORT_SECONDS):
                    await producer.abort_transaction()
        await self._drop()
        self._health.done(self._part)

    async def _start(self) -> None:
        """Start a new producer; try until the broker lets us."""
        await self._drop()
        topic, number = self._partition
        for pause in pauses():
            producer = new_producer(
                self._config,
                self._compression,
                self._packer.batch_bytes,
                transactional_id=f"{self._group}-{topic}-{number}",
                transaction_timeout_ms=TIMEOUT_MS,
                retry_backoff_ms=RETRY_MS,
            )
            try:
                await start_producer(producer, START_SECONDS)
            except FAILURES as error:
                self._wait(f"cannot start a producer: {error!r}")
                await asyncio.sleep(pause)
            else:
                self._producer = producer
                return

    async def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_producer(producer)

    async def _attempt(self, outputs: Sequence[Output], offset: int | None) -> bool:
        """Try once; tell whether the transaction is committed for certain.

        Raises
        ------
        Lost
            If a newer producer has taken our place, or the broker has given the transaction up.
        """
        producer = self._producer
        try:
            await self._in_time(self._transact(producer, outputs, offset))
        except FAILURES as error:
            if _is_fenced(producer, error):
                why = "the broker has shut its producer out"
                raise self._lose(why) from error
            self._wait(f"it failed: {error!r}")
            return False
        return True

    async def _in_time(self, transaction: Coroutine[Any, Any, None]) -> None:
        """Run a transaction; say so if it takes long, and end it if it takes too long."""
        task = asyncio.create_task(transaction)
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                while not (await asyncio.wait([task], timeout=REPORT_SECONDS))[0]:
                    self._wait("the broker does not finish it")
        finally:
            task.cancel()
            await asyncio.wait([task])
        task.result()

    async def _transact(
        self, producer: AIOKafkaProducer, outputs: Sequence[Output], offset: int | None
    ) -> None:
        lanes = await self._packer.lanes(producer, outputs)
        await producer.begin_transaction()
        # its error is raised elsewhere too, and asyncio complains of what nobody has looked at
        producer._txn_manager.wait_for_transaction_end().add_done_callback(_look_at)
        parts: list[Coroutine[Any, Any, None]] = [self._send(producer, lane) for lane in lanes]
        if offset is not None:
            memo = self._memo_of(self._partition)
            offsets = {TopicPartition(*self._partition): OffsetAndMetadata(offset, memo)}
            parts.append(producer.send_offsets_to_transaction(offsets, self._group))
        await _together(parts)
        await producer.commit_transaction()

    async def _send(self, producer: AIOKafkaProducer, lane: Lane) -> None:
        await lane.send(producer)
        if self._packer.too_large(lane):
            raise refusal(lane.outputs[:1])
        if lane.error is not None:
            raise lane.error

    async def _is_committed(self, offset: int) -> bool:
        """Tell whether a transaction whose end was not heard of was committed after all.

        Nobody but us can commit since our producer was started; who did before has the partition.
        """
        for pause in pauses():
            try:
                found = await self._commit_of(self._partition)
            except (KafkaError, TimeoutError, RuntimeError) as error:
                self._wait(f"cannot find out what is committed: {error!r}")
                await asyncio.sleep(pause)
                continue
            if found not in (self.committed, offset):
                why = f"its commit moved from {self.committed} to {found}"
                raise self._lose(why)
            return found == offset
        raise AssertionError  # pauses never end

    def _wait(self, why: str) -> None:
        self._health.wait(self._part, f"{self._part}: {why}")

    def _lose(self, why: str) -> Lost:
        self._lost = True
        return Lost(f"{self._part}: {why}")


async def _together(parts: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run the parts of a transaction side by side; the first error ends them all."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_fenced(producer: AIOKafkaProducer, error: BaseException) -> bool:
    """Tell whether a newer producer is behind an error, or behind the end of the sending task."""
    task = producer._sender.sender_task
    ended = task.exception() if task is not None and task.done() and not task.cancelled() else None
    return isinstance(error, ProducerFenced) or isinstance(ended, ProducerFenced)


def _look_at(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
