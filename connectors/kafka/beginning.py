"""Where to begin with partitions that are taken on: what the broker and the handler say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar

import structlog
from aiokafka.errors import KafkaError

from connectors.base import Partition
from connectors.kafka.backoff import pauses
from connectors.kafka.handler import Handler
from connectors.kafka.health import Health
from connectors.kafka.memo import Memos
from connectors.kafka.solo import Solo
from connectors.kafka.thread import ConsumerThread
from schemas.errors import SetupError

__all__ = ["Beginning"]

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Beginning:
    """Finds out where to begin in one assignment; asks until there is an answer.

    Parameters
    ----------
    thread
        Asks the broker.
    solo
        The thread of the handler.
    handler
        Knows from where on it needs the records.
    health
        Where waits are reported.

    Attributes
    ----------
    ends
        The ends of the logs: nobody can have read further before.
    """

    def __init__(
        self, thread: ConsumerThread, solo: Solo, handler: Handler, health: Health
    ) -> None:
        self._thread, self._solo, self._handler, self._health = thread, solo, handler, health
        self.ends: dict[Partition, int] = {}
        self._floor: dict[Partition, int] = {}  # the first offset that can be read
        self._fresh: set[Partition] = set()  # partitions that nobody had committed before

    async def commits(
        self,
        partitions: Collection[Partition],
        reset: str,
        memos: Memos,
        lost: frozenset[Partition],
    ) -> dict[Partition, int]:
        """Return the commit of every partition, and tell the handler what has changed since.

        A commit before the first record of the log counts as one there, as does one beyond the
        end in a partition that was ``lost``.
        """
        return await self._persist(lambda: self._commits(set(partitions), reset, memos, lost))

    async def starts(
        self, committed: Mapping[Partition, int], generation: int
    ) -> dict[Partition, int]:
        """Ask the handler where to begin; return the nearest that the log has."""
        asked = await self._ask(committed, generation)
        starts = {x: max(asked.get(x, y), self._floor.get(x, 0)) for x, y in committed.items()}
        for partition, offset in asked.items():
            if offset < starts[partition] and partition not in self._fresh:
                log.warning(
                    "records that were to be read again have expired: the windows lack them "
                    "until new records fill them; lengthen the topic's retention",
                    partition=f"{partition.topic}/{partition.number}",
                    wanted=offset,
                    first=starts[partition],
                    missing=starts[partition] - offset,
                )
        return starts

    async def seek(self, starts: Mapping[Partition, int], epoch: int) -> None:
        """Let the consumer read from there."""
        await self._persist(lambda: self._thread.start_at(starts, epoch))

    async def _ask(
        self, committed: Mapping[Partition, int], generation: int
    ) -> Mapping[Partition, int]:
        """Ask the handler where to begin, until it can tell."""
        for pause in pauses():
            try:
                return await self._solo.call(self._handler.assigned, committed, generation)
            except SetupError as error:
                self._health.wait("assignment", f"cannot restore state: {error}")
                await asyncio.sleep(pause)
        raise AssertionError  # pauses never end

    async def _persist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Ask the broker, again and again until it answers."""
        for pause in pauses():
            try:
                return await work()
            except (KafkaError, TimeoutError, RuntimeError) as error:
                self._health.wait("assignment", f"cannot find out where to begin: {error!r}")
                await asyncio.sleep(pause)
        raise AssertionError  # pauses never end

    async def _commits(
        self, partitions: set[Partition], reset: str, memos: Memos, lost: frozenset[Partition]
    ) -> dict[Partition, int]:
        if not partitions:
            return {}
        commits = await self._thread.committed(partitions, reset)
        bounds = await self._thread.bounds(partitions)
        counts = await self._thread.counts({partition.topic for partition in partitions})
        await self._compare(memos, {x: commit.memo for x, commit in commits.items()}, counts)
        self._fresh = {partition for partition, commit in commits.items() if commit.first}
        committed = {partition: commit.offset for partition, commit in commits.items()}
        for partition, (first, end) in bounds.items():
            if committed[partition] < first:
                await self._expired(memos, partition, committed[partition], first)
                committed[partition] = first
            elif partition in lost and committed[partition] > end:
                log.error(
                    "the commit lies beyond the end of the log, which has lost records or was made "
                    "anew: beginning with its first record",
                    partition=f"{partition.topic}/{partition.number}",
                    commit=committed[partition],
                    end=end,
                )
                committed[partition] = first
        self.ends = {x: end for x, (_, end) in bounds.items()}
        self._floor = {x: min(first, committed[x]) for x, (first, _) in bounds.items()}
        return committed

    async def _compare(
        self, memos: Memos, found: Mapping[Partition, str], counts: Mapping[str, int]
    ) -> None:
        """Report what has changed since the partitions were committed."""
        for topic, (before, now) in memos.compare(found, counts).items():
            if before != now:
                log.info("partitions were added to a topic", topic=topic, before=before, now=now)
            await self._solo.call(self._handler.resized, topic, before, now)

    async def _expired(self, memos: Memos, partition: Partition, first: int, end: int) -> None:
        """Report records that nobody will read, once."""
        first = max(first, memos.reported.get(partition, 0))
        if first >= end:
            return
        memos.reported[partition] = end
        log.error(
            "records expired before they were read and are lost to this pipeline: going on with "
            "the first one left; lengthen the topic's retention, or add workers",
            partition=f"{partition.topic}/{partition.number}",
            first=first,
            end=end,
            lost=end - first,
        )
        await self._solo.call(self._handler.expired, partition, first, end)
