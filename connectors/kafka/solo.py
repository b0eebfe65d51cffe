"""One thread for work that must not run beside itself nor hold up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["Solo"]

P = ParamSpec("P")
T = TypeVar("T")


class Solo:
    """A thread that runs calls one after the other, in the order of their arrival.

    A thread pool would wait at exit for a call that hangs; this thread dies with the process.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def call(self, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> T:
        """Run a function in the thread and return its result or raise its error.

        A caller that is cancelled does not cancel the function: it runs, and its result is lost.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def run() -> None:
            result, failure = None, None
            try:
                result = function(*arguments, **named)
            except BaseException as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, failure)

        if self._thread.ident is None:
            self._thread.start()
        self._calls.put(run)
        return await future

    def busy_seconds(self) -> float:
        """Return how long the running call has been running; 0 if none is."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self) -> None:
        """End the thread after the calls that were made so far; does not wait."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._since = time.monotonic()
            call()
            self._since = None
