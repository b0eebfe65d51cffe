"""Faust's transport, made to hand over whole fetches and to leave the commit point to us.

Faust moves a record through some forty Python calls; a message that stands for a thousand records
costs the same once. What faust keeps books of per message (gaps, acknowledgements, offsets read)
is switched off here, since none of it is true of such messages:

- its list of gaps takes the offsets that a message skips for done, and commits past them;
- it drops messages below the highest offset read, also when that one was never delivered;
- it drops fetched records of partitions that are paused meanwhile, though their position has moved.

Two event loops meet here. The aiokafka consumer lives in a thread of its own
(:mod:`connectors.kafka.thread`); everything in this module runs in the application's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

from faust.transport.consumer import Fetcher as FaustFetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from connectors.base import Fetch, Partition
from connectors.kafka.polls import Committed, Poll
from connectors.kafka.thread import ConsumerThread

__all__ = ["Consumer", "Fetcher", "Group", "Transport"]

# How long one poll may wait for records …
POLL_SECONDS = 1.0

# … unless partitions are held back: theirs must be asked for as soon as there is room again.
HELD_POLL_SECONDS = 0.05


class Group(Protocol):
    """What the transport asks of the worker; all methods are called in the application's loop."""

    @property
    def epoch(self) -> int:
        """Number of the present assignment."""
        ...

    def wanted(self) -> set[Partition]:
        """Return the partitions to fetch from now."""
        ...

    async def wait_for_room(self, seconds: float) -> None:
        """Return when the answer of :meth:`wanted` may have changed, or after a time."""
        ...

    def polled(self, poll: Poll) -> None:
        """Take note of what a poll found out about positions."""
        ...

    def handed(self, fetch: Fetch) -> None:
        """Book a fetch as handed out."""
        ...

    async def revoke(self) -> None:
        """Publish and commit what is under way, then give up all partitions."""
        ...

    def assign(self, partitions: set[Partition], generation: int) -> None:
        """Take on partitions in a generation of the group, in the background."""
        ...

    async def commit(self) -> Committed:
        """Commit what may be committed; never raises."""
        ...


class _Nothing(dict[TP, Any]):
    """A mapping that holds None for every partition, whatever is put in."""

    def __getitem__(self, key: TP) -> None:
        return None

    def __setitem__(self, key: TP, value: Any) -> None:
        pass

    def update(self, *args: Any, **kwargs: Any) -> None:
        pass


class Consumer(driver.Consumer):
    """Faust's consumer: one message per partition and poll, its value the fetch."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _Nothing()
        self._committed_offset = _Nothing()

    @property
    def group(self) -> Group:
        """The worker's side of the consumer group."""
        group: Group = self.app.group
        return group

    @property
    def thread(self) -> ConsumerThread:
        """The thread in which the aiokafka consumer lives."""
        return self._thread

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield the fetches of one poll; pausing takes effect between polls only."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
            return
        group = self.group
        wanted = group.wanted()
        if not wanted:
            await group.wait_for_room(timeout)
            return
        everything = len(wanted) == len(self.assignment())
        seconds = POLL_SECONDS if everything else HELD_POLL_SECONDS
        poll = await self.thread.poll(wanted, seconds)
        # Records from before a rebalance: they are read again, by us or by somebody else.
        if poll.epoch != group.epoch:
            return
        group.polled(poll)
        for fetch in poll.fetches:
            if poll.epoch != group.epoch:
                return
            group.handed(fetch)
            yield TP(*fetch.partition), self._message(fetch, poll.epoch)

    def _message(self, fetch: Fetch, epoch: int) -> ConsumerMessage:
        place = TP(*fetch.partition)
        offset = int(fetch.offsets[-1])
        message = ConsumerMessage(
            place.topic,
            place.partition,
            offset,
            None,
            None,
            {},
            None,
            (epoch, fetch),
            None,
            tp=place,
            generation_id=self.app.consumer_generation_id,
        )
        return message

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Publish and commit first: faust's own part forgets what is under way."""
        await self.group.revoke()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Take note of an empty assignment, for which faust seeks nothing."""
        if not assigned:
            self.group.assign(set(), generation_id)
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Begin to take on the partitions that are now assigned.

        Faust allows this method a limited time, after which it would never resume. So it only
        starts the work; nothing is fetched from a partition before its position is set.
        """
        partitions = {Partition(x.topic, x.partition) for x in self.assignment()}
        self.group.assign(partitions, self.app.consumer_generation_id)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit by our own books."""
        return await self.group.commit() is Committed.DONE

    async def verify_all_partitions_active(self) -> None:
        """Leave the watching to the worker: faust's looks at bookkeeping that is off."""

    def track_message(self, message: Any) -> None:
        """Keep no books per message."""

    def ack(self, message: Any) -> bool:
        """Take no notice: a stream acknowledges long before the outputs are published."""
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Book no gap: it would count as done."""

    def on_buffer_full(self, tp: TP) -> None:
        """Take no notice: the ledger bounds what is under way."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Take no notice."""

    def close(self) -> None:
        """Do nothing: faust would close the client in the wrong event loop."""


class Fetcher(FaustFetcher):
    """Faust's fetching task, which takes a stop during a rebalance for a crash."""

    @Service.task
    async def _fetcher(self) -> None:
        try:
            await self.app.consumer._drain_messages(self)  # noqa: SLF001 (as faust's own does)
        except asyncio.CancelledError:
            if not self.should_stop:
                raise
        finally:
            self.set_shutdown()


class Transport(driver.Transport):
    """The transport that an application of ours uses."""

    Consumer = Consumer
    Fetcher = Fetcher
