"""The process of a worker: from waiting for what it needs to its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

import structlog

from agents.monitor import Monitor, serve_monitor
from connectors.kafka.backoff import pauses
from connectors.kafka.health import Health
from connectors.kafka.solo import Solo
from connectors.kafka.worker import KafkaWorker, leave_process
from schemas.errors import SetupError

__all__ = ["serve_workers"]

log = structlog.get_logger(__name__)

Make = Callable[[], list[KafkaWorker]]


class _Process:
    """Makes workers as soon as that is possible, and runs them until the first is told to stop."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._workers: list[KafkaWorker] = []
        self._health = Health()
        self._health.wait("start", "starting", expected=True)

    def probe(self) -> tuple[bool, bool, str]:
        """Return ready, healthy, and what is waited for."""
        own, states = self._health, [worker.status() for worker in self._workers]
        ready = own.ready and all(status.ready for status in states)
        healthy = own.healthy and all(status.healthy for status in states)
        reasons = [own.reason, *(status.reason for status in states)]
        return ready, healthy, "; ".join(filter(None, reasons))

    async def main(self) -> None:
        """Work until told to stop."""
        told = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, told.set)
        waiting, making = asyncio.create_task(told.wait()), asyncio.create_task(self._made())
        await asyncio.wait([waiting, making], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not making.done():
            log.info("stopping")
            leave_process()  # the storage's client may hang, and nothing is under way
        self._workers = making.result()
        self._health.done("start")
        # from here on the first worker listens to signals
        if not told.is_set() and not await self._together():
            leave_process()

    async def _made(self) -> list[KafkaWorker]:
        """Make the workers, again and again until the storage answers."""
        solo = Solo("eddy-start")
        for pause in pauses():
            try:
                return await solo.call(self._make)
            except SetupError as error:
                self._health.wait("start", str(error))
                await asyncio.sleep(pause)
        raise AssertionError  # pauses never end

    async def _together(self) -> bool:
        """Run the workers; tell whether all have ended."""
        first, *others = self._workers
        tasks = [asyncio.create_task(worker.main()) for worker in others]
        for task in tasks:
            task.add_done_callback(lambda _: first.stop())

        async def follow() -> None:
            await first.told_to_stop()
            for worker in others:
                worker.stop()

        following = asyncio.create_task(follow())
        ended = []
        try:
            ended.append(await first.main(process=True))
        finally:
            following.cancel()
            for worker in others:
                worker.stop()
            with contextlib.suppress(asyncio.CancelledError):
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(outcome, Exception):
                        raise outcome
                    ended.append(outcome is True)
        return all(ended)


def serve_workers(make: Make, monitor: Monitor, port: int) -> None:
    """Run workers in this process until it is told to stop; blocks.

    Parameters
    ----------
    make
        Makes them; called again for as long as it raises :class:`SetupError`, in a thread.
    monitor
        What ``/metrics`` shows.
    port
        Of the probes and metrics, which answer from the beginning; 0 serves none.
    """
    process = _Process(make)
    server = serve_monitor(monitor, process.probe, port) if port else None
    try:
        asyncio.run(process.main())
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()
