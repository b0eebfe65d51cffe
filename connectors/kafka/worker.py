"""A worker: one member of a consumer group that drives one handler, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from connectors.base import Partition
from connectors.kafka.allocator import give_back_large_arrays
from connectors.kafka.client import aiokafka_settings
from connectors.kafka.collector import collect_rarely
from connectors.kafka.delivery import AtLeastOnce, Delivery
from connectors.kafka.drive import Drive
from connectors.kafka.follow import Callback, Follower
from connectors.kafka.handler import Handler
from connectors.kafka.health import Health
from connectors.kafka.membership import Membership
from connectors.kafka.memo import Keeping
from connectors.kafka.publisher import Publisher
from connectors.kafka.quiet import quiet_libraries
from connectors.kafka.session import Sessions, cancel
from connectors.kafka.topics import await_topics
from connectors.kafka.transactions import Transactions
from schemas.config import Kafka

__all__ = ["KafkaWorker", "Status", "leave_process"]

log = structlog.get_logger(__name__)

# From the wish to stop to the end: first what is under way is published and committed, then the
# group is left (session.LEAVE_SECONDS), and then, whatever still hangs, the process ends.
# Kubernetes kills after 30 s, and people at a terminal lose patience earlier.
DRAIN_SECONDS = 4.5
HARD_EXIT_SECONDS = 9.5


@dataclass(frozen=True, slots=True)
class Status:
    """How a worker is.

    Attributes
    ----------
    ready
        Whether it waits for nothing but records.
    healthy
        Whether nothing has kept it waiting for too long.
    reason
        What it waits for, in words.
    partitions
        The partitions that it has.
    lag
        For each of them how many offsets the work done is behind the end of the log.
    """

    ready: bool
    healthy: bool
    reason: str
    partitions: frozenset[Partition]
    lag: Mapping[Partition, int]


class KafkaWorker:
    """One member of a consumer group; lives once.

    Parameters
    ----------
    config
        The connection.
    group
        Name of the consumer group.
    topics
        The topics that the group shares out.
    handler
        What processes the records.
    batch, deadline_seconds
        A batch is processed when so many records wait, or so long after the oldest arrived.
    tick_seconds
        How often an idle handler is asked whether it has something to do.
    follow
        Topics that this worker reads from the beginning, whatever the group does, with what to
        call for each message (in the handler's thread). Read up to their ends before the first
        record is processed.
    reset
        Where to begin in a partition without a committed offset, ``earliest`` or ``latest``.
    isolation_level
        ``read_committed`` hides messages of open and aborted transactions.
    exactly_once
        Whether outputs and offsets go into transactions, see
        :mod:`connectors.kafka.transactions`; otherwise what a crash interrupts is published again.
    keeping
        Where the handler keeps the state of its partitions; a worker that keeps it elsewhere is
        told so when it takes one of them on.
    delivery
        Where outputs go instead; for measurements.
    unhealthy_seconds
        How long a wait or one call of the handler may last before the worker is unhealthy.

    Raises
    ------
    ConfigError
        If the connection's settings are wrong.
    """

    def __init__(
        self,
        config: Kafka,
        group: str,
        topics: Sequence[str],
        handler: Handler,
        *,
        batch: int = 8192,
        deadline_seconds: float = 0.01,
        tick_seconds: float = 1.0,
        follow: Mapping[str, Callback] | None = None,
        reset: str = "earliest",
        isolation_level: str = "read_committed",
        exactly_once: bool = False,
        keeping: Keeping | None = None,
        delivery: Delivery | None = None,
        unhealthy_seconds: float = 300.0,
    ) -> None:
        aiokafka_settings(config)  # a mistake in them is better told now than at the first use
        follow = dict(follow or {})
        self._config = config
        self._needed = [*topics, *follow]
        self._unhealthy = unhealthy_seconds
        self._health = health = Health(unhealthy_seconds)
        health.wait("group", "starting", expected=True)
        self._members = members = Membership(handler, health, reset, keeping or Keeping())
        self._delivery: Delivery
        if delivery is not None:
            self._delivery = delivery
        elif exactly_once:
            self._delivery = Transactions(
                config, group, members.commit_of, members.memos.of, health
            )
        else:
            self._delivery = AtLeastOnce(Publisher(config, health))
        members.delivery = self._delivery
        self._drive = members.drive = Drive(
            handler,
            self._delivery,
            members.ledger,
            members,
            batch=batch,
            deadline_seconds=deadline_seconds,
            tick_seconds=tick_seconds,
        )
        self._follower = Follower(config, follow, self._drive.solo, health)
        self._sessions = Sessions(
            config, group, list(topics), isolation_level, members, self._drive, health
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._stopping = threading.Event()
        self._drained = False

    def run(self, *, process: bool = True) -> None:
        """Work until told to stop; blocks.

        Parameters
        ----------
        process
            Whether this is the main thread of a process of its own. Then SIGTERM and SIGINT stop
            the worker, and the process ends within ten seconds, by a hard exit if need be.

        Raises
        ------
        Exception
            What the handler raised, or a publisher's error that no waiting mends.
        """
        asyncio.run(self._run(process))

    async def _run(self, process: bool) -> None:
        if not await self.main(process=process) and process:
            leave_process()

    async def main(self, *, process: bool = False) -> bool:
        """Work until told to stop, in the running event loop; see :meth:`run`.

        Returns
        -------
        bool
            Whether everything has ended. Otherwise something hangs, and the process should be left
            by :func:`leave_process`; what was not finished is read again.
        """
        quiet_libraries()
        self._loop = asyncio.get_running_loop()
        if process:
            collect_rarely()
            give_back_large_arrays()
            for name in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(name, self._signalled)
        if self._stopping.is_set():
            return True
        driving = asyncio.create_task(self._drive.run())
        others = [
            asyncio.create_task(self._guarded(self._follower.run())),
            asyncio.create_task(self._guarded(self._join())),
        ]
        wish = asyncio.create_task(self._stop.wait())
        await asyncio.wait([wish, driving], return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        await self._wind_down(driving)
        self._members.stop()
        await asyncio.gather(cancel([wish, driving, *others]), self._delivery.stop())
        self._drive.solo.stop()
        self._health.wait("group", "stopped", expected=True)
        if self._drive.failure is not None:
            raise self._drive.failure
        return self._drained and self._sessions.clean

    def stop(self) -> None:
        """Ask the worker to stop, from any thread; returns at once, may be called again."""
        self._stopping.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has stopped, and its loop is closed
                self._loop.call_soon_threadsafe(self._stop.set)

    async def told_to_stop(self) -> None:
        """Return when somebody has asked the worker to stop."""
        await self._stop.wait()

    def status(self) -> Status:
        """Return how the worker is; may be called in any thread."""
        busy = self._drive.solo.busy_seconds()
        stuck = busy > self._unhealthy
        reasons = [self._health.reason] if self._health.reason else []
        if stuck:
            reasons.append(f"the handler has been busy with one call for {busy:.0f} s")
        return Status(
            ready=self._health.ready,
            healthy=self._health.healthy and not stuck,
            reason="; ".join(reasons),
            partitions=frozenset(self._members.assigned),
            lag=self._members.lag(),
        )

    def exhausted(self) -> set[Partition]:
        """Return the partitions of which the handler has been given everything there is.

        May be called in any thread; for a handler that merges partitions by time.
        """
        return self._members.exhausted()

    async def _guarded(self, part: Coroutine[Any, Any, None]) -> None:
        """Run a part of the worker, whose error is the worker's."""
        try:
            await part
        except Exception as error:
            self._drive.fail(error)

    async def _join(self) -> None:
        await await_topics(self._config, self._needed, self._health)
        await self._follower.caught_up()
        await self._sessions.run()

    async def _wind_down(self, driving: asyncio.Task[None]) -> None:
        """Publish and commit what is under way; what takes too long is read again later."""
        drive = self._drive
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                drive.stop()
                await asyncio.wait([driving])
                if drive.failure is None:
                    await drive.finish()
                await self._members.commit_all(DRAIN_SECONDS)
                await self._members.told()
                self._drained = True
        except TimeoutError:
            log.warning("stopping with work under way: it is read again", why=self._health.reason)
        except Exception as error:
            drive.fail(error)

    def _signalled(self) -> None:
        """Stop in order; at the second signal at once."""
        if self._stopping.is_set():
            leave_process(1)
        log.info("stopping")
        watchdog = threading.Timer(HARD_EXIT_SECONDS, leave_process, [1])
        watchdog.daemon = True
        watchdog.start()
        self.stop()


def leave_process(code: int = 0) -> None:
    """End the process past threads that hang; what was committed stays committed."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
