"""The worker's part in its group: taking on partitions, committing, giving partitions up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import structlog

from connectors.base import Fetch, Partition
from connectors.kafka.beginning import Beginning
from connectors.kafka.delivery import Delivery, Lost
from connectors.kafka.drive import Drive
from connectors.kafka.handler import Handler
from connectors.kafka.health import Health
from connectors.kafka.ledger import Ledger
from connectors.kafka.memo import Keeping, Memos
from connectors.kafka.polls import Commit, Committed, Poll
from connectors.kafka.thread import ConsumerThread

__all__ = ["Membership"]

log = structlog.get_logger(__name__)

# Records of a partition that may be under way (waiting, in processing or being published): some
# batches' worth, so that a partition with a backlog keeps the handler busy between two polls.
PENDING_RECORDS = 50_000

# Bytes of all partitions together. A partition that has nothing under way is fetched regardless:
# a handler that merges partitions may wait for exactly that one.
PENDING_BYTES = 128 << 20

# What is under way when partitions are revoked has so long to be published, within the time that
# the group waits for us (thread.REBALANCE_MS).
REVOKE_SECONDS = 35.0

# A handler that hangs must not keep the group waiting for the rest of that time.
HANDLER_SECONDS = 5.0

RETRY_SECONDS = 0.2


class Membership:
    """Books and rules of the assigned partitions; belongs to the worker's event loop.

    Parameters
    ----------
    handler
        Is told of partitions that come and go.
    health
        Where waits are reported.
    reset
        Where to begin in a partition without a committed offset, ``earliest`` or ``latest``.
    keeping
        Where the handler keeps the state of its partitions.

    Attributes
    ----------
    ledger
        The books.
    memos
        What is committed together with offsets.
    drive, delivery, thread
        The worker's engine, where it delivers to, and the present session's consumer thread; set
        by the worker.
    """

    def __init__(self, handler: Handler, health: Health, reset: str, keeping: Keeping) -> None:
        self.ledger = Ledger()
        self.memos = Memos(keeping)
        self.drive: Drive
        self.delivery: Delivery
        self.thread: ConsumerThread
        self._handler = handler
        self._health = health
        self._reset = reset
        self._assigned: set[Partition] = set()
        self._open: set[Partition] = set()
        self._sent: dict[Partition, int] = {}
        self._marks: dict[Partition, tuple[int, int]] = {}
        # up to where a predecessor may have published what it has not committed
        self._foreign: dict[Partition, int] = {}
        # whether the handler has been told of the partitions, and so must be told of their end
        self._told = False
        self._taking_on: asyncio.Task[None] | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._commit_lock = asyncio.Lock()
        self._telling: asyncio.Task[None] | None = None
        self._generation = 0

    @property
    def epoch(self) -> int:
        """Number of the present assignment."""
        return self.drive.epoch

    @property
    def assigned(self) -> set[Partition]:
        """The partitions that this worker has."""
        return set(self._assigned)

    def lag(self) -> dict[Partition, int]:
        """Return how many offsets each partition's commit point is behind the end of its log."""
        positions = self.ledger.positions()
        marks = dict(self._marks)
        return {x: max(0, marks[x][1] - positions[x]) for x in positions if x in marks}

    def exhausted(self) -> set[Partition]:
        """Return the partitions of which the handler has been given everything there is.

        May be called in the handler's thread: what is read here only ever errs towards fewer.
        """
        given = self.drive.given
        found = set()
        for partition in list(self._open):
            mark = self._marks.get(partition)
            at_end = mark is not None and mark[0] >= mark[1]
            if at_end and given.get(partition) == self._sent.get(partition):
                found.add(partition)
        return found

    def caught_up(self) -> bool:
        """Tell whether all that predecessors may have published has been made again.

        Not without partitions: what is kept of them stands for what is committed, as it was.
        """
        positions = self.ledger.positions()
        for partition, end in list(self._foreign.items()):
            read, _ = self._marks.get(partition, (0, 0))  # beyond what is no record, too
            reached = read if not self.ledger.pending(partition) else 0
            if max(reached, positions.get(partition, 0)) >= end:
                del self._foreign[partition]
        return bool(self._open) and not self._foreign

    # What the transport asks

    def wanted(self) -> set[Partition]:
        """Return the partitions that have room for more records."""
        full = self.ledger.size >= PENDING_BYTES
        pending = self.ledger.pending
        return {
            partition
            for partition in self._open
            if not (held := pending(partition)) or (held < PENDING_RECORDS and not full)
        }

    async def wait_for_room(self, seconds: float) -> None:
        """Return when something has been acknowledged or taken on, or after a time."""
        progress = self.drive.progress
        progress.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await progress.wait()

    def polled(self, poll: Poll) -> None:
        """Take note of positions, and begin anew where a position has left the log."""
        for fetch in poll.fetches:
            # before the marks: `exhausted` must not see the new position without the new records
            self._sent[fetch.partition] = int(fetch.offsets[-1]) + 1
        self._marks.update(poll.marks)
        self._look_at(poll)
        lost = poll.out_of_range & self._open
        if lost:
            self._open -= lost
            self._restarting = asyncio.create_task(self._restart(lost))

    def _look_at(self, poll: Poll) -> None:
        """Report brokers that are away: an idle worker has no other way to notice."""
        if poll.coordinated:
            self._health.done("coordinator")
        else:
            self._health.wait("coordinator", "the group's coordinator is away")
        if poll.silent:
            names = ", ".join(sorted(f"{x.topic}/{x.number}" for x in poll.silent))
            self._health.wait("fetch", f"no answer from the leader of {names}")
        else:
            self._health.done("fetch")

    def handed(self, fetch: Fetch) -> None:
        """Book a fetch as under way."""
        size = sum(len(value) for value in fetch.values if value is not None)
        self.ledger.received(fetch.partition, int(fetch.offsets[-1]) + 1, len(fetch), size)

    async def commit(self) -> Committed:
        """Commit what may be; with nothing to commit, that is done."""
        async with self._commit_lock:
            offsets = self.ledger.committable()
            if not offsets:
                return Committed.DONE
            epoch = self.epoch
            commits = {x: Commit(y, self.memos.of(x)) for x, y in offsets.items()}
            outcome = await self.thread.commit_offsets(commits)
            if outcome is Committed.LATER:
                self._health.wait("commit", "the group's coordinator does not take commits")
            else:
                self._health.done("commit")
            if outcome is Committed.DONE and epoch == self.epoch:
                self.book(offsets)
            return outcome

    def book(self, offsets: Mapping[Partition, int]) -> None:
        """Book commits that the broker has confirmed, and tell the handler."""
        if not offsets:
            return
        for partition, offset in offsets.items():
            self.ledger.committed(partition, offset)
        self._telling = asyncio.create_task(self._tell(offsets))

    async def told(self) -> None:
        """Return when the handler has been told of all commits."""
        if self._telling is not None:
            await self._telling

    async def _tell(self, offsets: Mapping[Partition, int]) -> None:
        try:
            await self.drive.solo.call(self._handler.committed, offsets)
        except Exception as error:
            self.drive.fail(error)

    async def commit_all(self, seconds: float) -> None:
        """Commit, trying again for a while if the coordinator is away."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while await self.commit() is Committed.LATER and loop.time() < end:
            await asyncio.sleep(RETRY_SECONDS)

    # Partitions come and go

    def assign(self, partitions: set[Partition], generation: int) -> None:
        """Take on partitions, in the background; all others are gone."""
        self._forget()
        self._generation = generation
        self._assigned = set(partitions)
        if partitions:
            reason = f"taking on {len(partitions)} partition(s)"
            self._health.wait("assignment", reason, expected=True)
        self._taking_on = asyncio.create_task(self._take_on(self.epoch))
        self._health.done("group")

    async def revoke(self) -> None:
        """Publish and commit what is under way, then give up all partitions.

        Called while the group waits, so bounded: what is not finished in time is dropped, and read
        again by whoever gets the partition.
        """
        self._stop_taking_on()
        self._open.clear()
        if not self._assigned:
            return
        self._health.wait("group", "the group shares out its partitions", expected=True)
        end = asyncio.get_running_loop().time() + REVOKE_SECONDS
        async with self.drive.parked(REVOKE_SECONDS) as drained:
            if drained:
                await self.commit_all(end - asyncio.get_running_loop().time())
            await self._give_up(HANDLER_SECONDS)

    def lost(self, error: Lost) -> None:
        """Drop what is under way: another worker has a partition, and the group shall tell which.

        It may not know yet that we are still there, or we that it has gone on without us.
        """
        log.warning("joining the group again", why=str(error))
        self._health.wait("group", f"joining again: {error}", expected=True)
        self._stop_taking_on()
        self._forget()
        self.thread.rejoin()

    async def commit_of(self, partition: Partition) -> int:
        """Ask the broker for the commit of a partition."""
        return (await self.thread.committed({partition}, self._reset))[partition].offset

    def stop(self) -> None:
        """End what goes on in the background; the partitions stay as they are."""
        self._stop_taking_on()

    async def abandon(self) -> None:
        """Give up all partitions without a commit: the connection to the group is lost."""
        self._stop_taking_on()
        if self._assigned:
            await self._give_up(HANDLER_SECONDS)

    async def _give_up(self, seconds: float) -> None:
        partitions = sorted(self._assigned)
        log.info("giving up partitions", partitions=len(partitions))
        told, self._told = self._told, False
        self._forget()
        self.ledger.revoke(partitions)
        self._assigned.clear()
        self._health.done("commit")
        self._health.done("assignment")
        await self.delivery.leave()
        if not told:
            return
        try:
            async with asyncio.timeout(seconds):
                await self.drive.solo.call(self._handler.revoked, partitions)
        except TimeoutError:
            log.warning("the handler has not let go of its partitions yet", seconds=seconds)
        except Exception as error:
            self.drive.fail(error)

    def _forget(self) -> None:
        self.drive.next_epoch()
        self._open.clear()
        self._sent.clear()
        self._marks.clear()
        self._foreign.clear()

    def _stop_taking_on(self) -> None:
        for task in (self._taking_on, self._restarting):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._taking_on = None

    async def _take_on(self, epoch: int, lost: frozenset[Partition] = frozenset()) -> None:
        """Find out where to begin, and open the partitions; try again as long as they are ours."""
        try:
            # first: from here on nobody else can move the commits
            await self.delivery.take_on(self.assigned)
            beginning = Beginning(self.thread, self.drive.solo, self._handler, self._health)
            committed = await beginning.commits(self._assigned, self._reset, self.memos, lost)
            self.delivery.begin(committed)
            self._foreign = dict(beginning.ends) if self.delivery.repeats else {}
            self._told = True
            starts = await beginning.starts(committed, self._generation)
            await beginning.seek(starts, epoch)
            if epoch != self.epoch:
                return
            for partition, offset in committed.items():
                self.ledger.assign(partition, offset, starts[partition])
            self._open = set(committed)
            self._health.done("assignment")
            self.drive.progress.set()
            log.info("reading", partitions=len(starts))
        except Exception as error:
            self.drive.fail(error)

    async def _restart(self, lost: frozenset[Partition]) -> None:
        """Begin anew where positions have left the log; the other partitions go on."""
        assigned = self.assigned
        await self.revoke()
        self._forget()
        self._assigned = assigned
        self._health.done("group")
        await self._take_on(self.epoch, lost)
