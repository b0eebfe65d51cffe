"""The worker's engine: from waiting fetches through the handler to acknowledged outputs.

While a batch is processed, those before it are being published, two at most. A batch counts as done
when everything of it and of all batches before it is acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from connectors.base import Fetch, Partition
from connectors.kafka.delivery import Delivery, Lost
from connectors.kafka.handler import Batch, Handler
from connectors.kafka.inbox import Inbox
from connectors.kafka.ledger import Ledger
from connectors.kafka.polls import Committed
from connectors.kafka.solo import Solo
from connectors.kafka.thread import SESSION_MS

__all__ = ["Commits", "Drive"]

log = structlog.get_logger(__name__)

# An event loop that was not run for so long has missed the group's session time-out, and others may
# have our partitions: that of a process that was stopped and goes on, say.
AWAY_SECONDS = SESSION_MS / 1000

# How often the loop leaves a sign of life.
PULSE_SECONDS = 0.5

# Batches that are processed but not acknowledged: one keeps the broker busy, the next one is ready.
UNACKNOWLEDGED = 2


class Commits(Protocol):
    """What the drive asks of the worker's membership in its group."""

    async def commit(self) -> Committed:
        """Commit what the ledger allows."""
        ...

    def book(self, offsets: Mapping[Partition, int]) -> None:
        """Book commits that the broker has confirmed, and tell the handler."""
        ...

    def caught_up(self) -> bool:
        """Tell whether all that predecessors may have published has been made again."""
        ...

    async def told(self) -> None:
        """Return when the handler has been told of all commits."""
        ...

    def lost(self, error: Lost) -> None:
        """Drop the present assignment, and see to another one."""
        ...


class Drive:
    """Runs one handler; belongs to the worker's event loop.

    Parameters
    ----------
    handler
        What processes the records.
    delivery
        Where outputs go.
    ledger
        Where done work is booked.
    commits
        Commits what the ledger allows.
    batch, deadline_seconds
        When a batch is closed, see :class:`connectors.kafka.inbox.Inbox`.
    tick_seconds
        How often an idle handler is asked whether it has something to do.

    Attributes
    ----------
    epoch
        Number of the present assignment. Work of an earlier one is dropped: its records are read
        again by whoever has the partitions now.
    failure
        The error that ended the drive.
    given
        For each partition, up to where records were given to the handler.
    """

    def __init__(
        self,
        handler: Handler,
        delivery: Delivery,
        ledger: Ledger,
        commits: Commits,
        *,
        batch: int,
        deadline_seconds: float,
        tick_seconds: float,
    ) -> None:
        self.epoch = 0
        self.failure: BaseException | None = None
        self.given: dict[Partition, int] = {}
        self.solo = Solo("eddy-handler")
        self.progress = asyncio.Event()
        self._handler = handler
        self._delivery = delivery
        self._ledger = ledger
        self._commits = commits
        self._tick = tick_seconds
        self._inbox = Inbox(batch, deadline_seconds)
        self._turn = asyncio.Lock()
        self._slots = asyncio.Semaphore(UNACKNOWLEDGED)
        self._last: asyncio.Task[None] | None = None
        # whether a batch of this assignment was not delivered: none after it may count as done
        self._gap = False
        self._idle_at = time.monotonic()
        self._awake_at = time.monotonic()
        self._stopping = False
        # how many wait in `parked` for the drive to come to a halt
        self._halts = 0

    def accept(self, epoch: int, fetch: Fetch) -> None:
        """Let a fetch wait for its turn."""
        if epoch == self.epoch and not self._stopping:
            self._inbox.put(fetch)

    def next_epoch(self) -> None:
        """Begin another assignment: drop all waiting fetches, and the results under way."""
        self.epoch += 1
        self._gap = False
        self.given.clear()
        self._inbox.clear()

    async def run(self) -> None:
        """Process until :meth:`stop`; raise what the handler or the publisher raised."""
        pulse = asyncio.create_task(self._beat())
        try:
            await self._process()
        finally:
            pulse.cancel()
        if self.failure is not None:
            # What was processed before the failure may still be published and committed.
            await self._acknowledged()
            raise self.failure

    async def _process(self) -> None:
        while not self._stopping and self.failure is None:
            await self._inbox.due(self._tick)
            async with self._turn:
                if not self._stopping and self.failure is None:
                    try:
                        await self._step()
                    except Exception as error:
                        self.fail(error)

    async def _beat(self) -> None:
        while True:
            self._look_at_clock()
            await asyncio.sleep(PULSE_SECONDS)

    def _look_at_clock(self) -> None:
        """After too long an absence drop the assignment: what is under way is others' by now."""
        now = time.monotonic()
        away, self._awake_at = now - self._awake_at, now
        if away >= AWAY_SECONDS and self.given and not self._stopping:
            self._commits.lost(Lost(f"this worker was not run for {away:.0f} s"))

    def fail(self, error: BaseException) -> None:
        """End the drive with an error."""
        self.failure = self.failure or error
        self._inbox.wake()

    def stop(self) -> None:
        """End :meth:`run` after the batch in hand."""
        self._stopping = True
        self._inbox.clear()
        self._inbox.wake()

    async def finish(self) -> None:
        """Publish the handler's last words; to be called after :meth:`run` has returned."""
        batch = await self.solo.call(self._handler.stop)
        await self._send(self.epoch, batch)
        await self._acknowledged()

    @asynccontextmanager
    async def parked(self, seconds: float) -> AsyncIterator[bool]:
        """Hold the drive between two batches; True if all outputs are acknowledged in time."""
        held = drained = False
        self._halts += 1
        try:
            try:
                async with asyncio.timeout(seconds):
                    await self._turn.acquire()
                    held = True
                    await self._acknowledged()
                    drained = self.failure is None
            except TimeoutError:
                log.warning("could not finish what is under way", seconds=seconds)
            yield drained
        finally:
            self._halts -= 1
            if held:
                self._turn.release()

    async def _step(self) -> None:
        epoch = self.epoch
        fetches = self._inbox.take()
        idle = not fetches
        if idle:
            if time.monotonic() - self._idle_at < self._tick:
                return
            self._idle_at = time.monotonic()
        for fetch in fetches:
            self.given[fetch.partition] = int(fetch.offsets[-1]) + 1
        # what was published before must not be published again by the rules that come with it
        if self._commits.caught_up() and await self.solo.call(self._handler.wants_barrier):
            await self._barrier(epoch)
        if epoch != self.epoch:
            return
        if idle:
            batch = await self.solo.call(self._handler.idle)
        else:
            batch = await self.solo.call(self._handler.process, fetches)
        if batch is not None:
            await self._send(epoch, batch)

    async def _barrier(self, epoch: int) -> None:
        """Drain, commit, and let the handler apply what it waits with, now or another time."""
        await self._acknowledged()
        while epoch == self.epoch and self.failure is None and not (self._stopping or self._halts):
            outcome = await self._commits.commit()
            if outcome is Committed.DONE and not self._ledger.committable():
                await self._commits.told()  # it checkpoints what it knows to be committed
                positions = self._ledger.positions()
                batch = await self.solo.call(self._handler.barrier, positions)
                await self._send(epoch, batch)
                return
            await asyncio.sleep(0.2)

    async def _send(self, epoch: int, batch: Batch) -> None:
        await self._slots.acquire()
        self._last = asyncio.create_task(self._deliver(self._last, epoch, batch))

    async def _deliver(self, before: asyncio.Task[None] | None, epoch: int, batch: Batch) -> None:
        """Deliver one batch after the one before it, and book it."""
        try:
            if before is not None:
                await asyncio.wait([before])
            self._look_at_clock()
            if not self._gap and epoch == self.epoch:
                committed = await self._delivery.deliver(batch)
                if epoch == self.epoch:
                    for partition, position in batch.positions.items():
                        self._ledger.done(partition, position)
                    # at once: nobody may find them done and commit them a second time
                    self._commits.book(committed)
        except Lost as error:
            if epoch == self.epoch:
                self._gap = True
                if not self._stopping:
                    self._commits.lost(error)
        except Exception as error:
            self._gap = True
            self.fail(error)
        finally:
            self._slots.release()
            self.progress.set()

    async def _acknowledged(self) -> None:
        """Return when nothing is being published."""
        while self._last is not None and not self._last.done():
            await asyncio.wait([self._last])
