"""Accounts as of the commits: what metrics may tell of, since no crash can take it back."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

from connectors.base import Partition
from schemas.messages import Account


class Tally:
    """The newest account of each partition that its commit has reached.

    A partition's counts run ahead of its commit, and whoever takes it on after a crash goes on from
    the commit. Counters that followed the counts would fall then, which a reader of metrics takes
    for a restart from zero.
    """

    def __init__(self) -> None:
        self._waiting: dict[Partition, deque[tuple[int, Account]]] = {}
        self._safe: dict[Partition, Account] = {}

    def keep(self, partitions: Collection[Partition]) -> None:
        """Forget all partitions but these, and what waits for a commit."""
        self._waiting.clear()
        self._safe = {place: self._safe[place] for place in self._safe.keys() & set(partitions)}

    def note(self, partition: Partition, offset: int, account: Account) -> None:
        """Take note of an account of everything before ``offset``."""
        self._waiting.setdefault(partition, deque()).append((offset, account))

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Take note of commits."""
        for partition, waiting in self._waiting.items():
            while waiting and waiting[0][0] <= offsets.get(partition, -1):
                self._safe[partition] = waiting.popleft()[1]

    def accounts(self) -> list[Account]:
        """Return the accounts."""
        return list(self._safe.values())
