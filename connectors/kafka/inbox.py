"""Fetches that wait to be processed, and the moment when enough of them do."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque

from connectors.base import Fetch, Partition

__all__ = ["Inbox"]


class Inbox:
    """Waiting fetches in the order of their arrival; belongs to the worker's event loop.

    Parameters
    ----------
    batch
        Records that make a batch due at once, and at which :meth:`take` stops.
    deadline_seconds
        How long after the arrival of the oldest fetch a batch is due, however small.
    """

    def __init__(self, batch: int, deadline_seconds: float) -> None:
        self._batch = batch
        self._deadline = deadline_seconds
        self._waiting: deque[tuple[float, Fetch]] = deque()
        self._records = 0
        self._news = asyncio.Event()
        self._woken = False

    @property
    def records(self) -> int:
        """Number of waiting records."""
        return self._records

    def put(self, fetch: Fetch) -> None:
        """Add a fetch."""
        self._waiting.append((time.monotonic(), fetch))
        self._records += len(fetch)
        self._news.set()

    def take(self) -> list[Fetch]:
        """Remove and return the oldest records, a whole batch at most, one fetch per partition.

        At a moderate rate a poll brings a record or two, and what the handler does for a fetch
        costs the same for two records as for a hundred.
        """
        taken: dict[Partition, list[Fetch]] = defaultdict(list)
        room = self._batch
        while self._waiting and room:
            arrival, fetch = self._waiting.popleft()
            if len(fetch) > room:
                self._waiting.appendleft((arrival, fetch[room:]))
                fetch = fetch[:room]
            taken[fetch.partition].append(fetch)
            room -= len(fetch)
        self._records -= self._batch - room
        return [Fetch.join(parts) for parts in taken.values()]

    def clear(self) -> None:
        """Forget all waiting fetches."""
        self._waiting.clear()
        self._records = 0

    def wake(self) -> None:
        """End the present wait for a batch, or else the next one."""
        self._woken = True
        self._news.set()

    async def due(self, patience_seconds: float) -> None:
        """Return when a batch is due, when somebody called :meth:`wake`, or after a time."""
        patience = time.monotonic() + patience_seconds
        while not self._woken and self._records < self._batch:
            end = self._waiting[0][0] + self._deadline if self._waiting else patience
            left = end - time.monotonic()
            if left <= 0:
                return
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left)
        self._woken = False
