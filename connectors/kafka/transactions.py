"""Exactly once: what follows from a partition's records, and its new offset, in one transaction.

Every input partition has a producer of its own, whose transactional id names the group and the
partition. Whoever takes the partition on starts that producer anew, upon which the broker aborts
what an earlier owner has left open, and refuses everything that it still sends. Only then the
commit is read, so that nobody can move it any more. Nothing else keeps out a worker that does not
know yet that it has lost a partition: aiokafka does not tell the broker the group's generation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from connectors.base import Partition
from connectors.kafka.delivery import Lost
from connectors.kafka.handler import Batch
from connectors.kafka.health import Health
from connectors.kafka.writer import Writer
from schemas.config import Kafka

__all__ = ["Transactions"]

# How long what is under way may take to end when it is given up.
LEAVE_SECONDS = 1.0


class Transactions:
    """Delivers exactly once; the transactions of several partitions run side by side.

    Parameters
    ----------
    config, group
        The connection, and the consumer group whose offsets are committed.
    commit_of
        Asks the broker for the commit of a partition.
    memo_of
        Tells what to commit with an offset of a partition.
    health
        Where waits are reported.
    compression
        As of :class:`connectors.kafka.publisher.Publisher`.

    Notes
    -----
    Messages that come without a new offset, such as accounts between two batches, are published
    in a transaction too. Should its outcome never be heard of, they are published again.
    """

    repeats = False

    def __init__(
        self,
        config: Kafka,
        group: str,
        commit_of: Callable[[Partition], Awaitable[int]],
        memo_of: Callable[[Partition], str],
        health: Health,
        compression: str | None = "zstd",
    ) -> None:
        self._settings = (config, group, commit_of, memo_of, health, compression)
        self._writers: dict[Partition, Writer] = {}
        self._work: set[asyncio.Task[int | None]] = set()

    async def take_on(self, partitions: Collection[Partition]) -> None:
        """Shut out whoever delivered for these partitions before; give up all others."""
        await self.leave()
        writers = {partition: Writer(partition, *self._settings) for partition in partitions}
        try:
            await asyncio.gather(*(writer.take_on() for writer in writers.values()))
        except BaseException:
            await asyncio.gather(*(writer.close() for writer in writers.values()))
            raise
        self._writers = writers

    def begin(self, committed: Mapping[Partition, int]) -> None:
        """Take note of the commits from which the partitions go on."""
        for partition, offset in committed.items():
            self._writers[partition].committed = offset

    async def deliver(self, batch: Batch) -> Mapping[Partition, int]:
        """Return when the transactions of all partitions are committed, with their new offsets.

        What belongs to a partition that was given up is made again by its next owner.
        """
        if batch.merged:
            msg = "what follows from several partitions together cannot be delivered exactly once"
            raise ValueError(msg)
        if not batch.positions.keys() <= self._writers.keys():
            msg = "there are records of partitions that were given up"
            raise Lost(msg)
        work = {
            partition: asyncio.create_task(
                writer.deliver(batch.outputs.get(partition, ()), batch.positions.get(partition))
            )
            for partition, writer in self._writers.items()
        }
        self._work.update(work.values())
        try:
            offsets = await asyncio.gather(*work.values(), return_exceptions=True)
        finally:
            self._work.difference_update(work.values())
        committed: dict[Partition, int] = {}
        for partition, offset in zip(work, offsets, strict=True):
            if isinstance(offset, asyncio.CancelledError):
                msg = f"{partition.topic}/{partition.number} was given up"
                raise Lost(msg)
            if isinstance(offset, BaseException):
                raise offset
            if offset is not None:
                committed[partition] = offset
        return committed

    async def leave(self) -> None:
        """Give up all partitions; what is under way for them is aborted."""
        work, self._work = self._work, set()
        writers, self._writers = self._writers, {}
        for task in work:
            task.cancel()
        if work:
            await asyncio.wait(work, timeout=LEAVE_SECONDS)
        await asyncio.gather(*(writer.close() for writer in writers.values()))

    async def stop(self) -> None:
        """Close the connections; what is under way is aborted."""
        await self.leave()
