"""Being a member of the group, from joining it to the goodbye, and over again.

A session is one faust application. Should it crash, the next session takes the partitions on again
from their commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog

from connectors.kafka.app import App, new_app
from connectors.kafka.backoff import pauses
from connectors.kafka.drive import Drive
from connectors.kafka.health import Health
from connectors.kafka.membership import Membership
from schemas.config import Kafka

__all__ = ["Sessions", "cancel"]

log = structlog.get_logger(__name__)

# Leaving the group in order; without it the group waits for the session time-out.
LEAVE_SECONDS = 3.5


class Sessions:
    """Keeps a worker in its group; belongs to the worker's event loop.

    Parameters
    ----------
    config, group, topics, isolation_level
        As of the worker.
    members, drive
        What faust's consumer and its agent hand over to.
    health
        Where waits are reported.

    Attributes
    ----------
    clean
        Whether every session so far ended in order.
    """

    def __init__(
        self,
        config: Kafka,
        group: str,
        topics: list[str],
        isolation_level: str,
        members: Membership,
        drive: Drive,
        health: Health,
    ) -> None:
        self.clean = True
        self._config = config
        self._group = group
        self._topics = topics
        self._isolation_level = isolation_level
        self._members = members
        self._drive = drive
        self._health = health

    async def run(self) -> None:
        """Be a member until cancelled, and then leave."""
        for pause in pauses():
            await self._session()
            await self._members.abandon()
            self._health.wait("group", "the connection to the group broke: joining again")
            await asyncio.sleep(pause)

    async def _session(self) -> None:
        """Join and stay until faust crashes."""
        app = new_app(
            self._config,
            self._group,
            self._topics,
            self._members,
            self._drive.accept,
            self._isolation_level,
        )
        self._members.thread = app.consumer.thread
        self._health.wait("group", f"joining the group {self._group!r}", expected=True)
        starting = asyncio.create_task(app.start())
        crash = asyncio.create_task(app._crashed.wait())  # noqa: SLF001 (there is no public way)
        try:
            await asyncio.wait([starting, crash], return_when=asyncio.FIRST_COMPLETED)
            error = starting.exception() if starting.done() else None
            if error is None:
                # a start that has succeeded, or that hangs: mode leaves it so after a crash
                await crash
            reason = app.crash_reason or error
            log.error("the connection to the group broke", reason=repr(reason))
        finally:
            crash.cancel()
            await self._leave(app, starting)

    async def _leave(self, app: App, starting: asyncio.Task[None]) -> None:
        """Stop the application; bounded, and proof against whatever state it is in."""
        stopping = asyncio.create_task(app.stop())
        await asyncio.wait([stopping], timeout=LEAVE_SECONDS)
        if not stopping.done():
            self.clean = False
            log.warning("leaving the group takes too long: leaving without goodbye")
        elif (error := stopping.exception()) is not None:
            log.warning("could not leave the group in order", reason=repr(error))
        await cancel([stopping, starting])


async def cancel(tasks: Iterable[asyncio.Task[Any]], seconds: float = 6.0) -> None:
    """Cancel tasks, give them some time to end, and take note of their errors."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()
