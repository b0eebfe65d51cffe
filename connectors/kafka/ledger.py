"""Which records were handed out, which are done with, and so what may be committed.

Faust keeps such books itself, but per record, and a message that stands for many records leaves
gaps in them, which it takes for done: its commit can pass records that nobody has processed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from connectors.base import Partition

__all__ = ["Ledger"]


@dataclass(slots=True)
class _Account:
    """The books of one partition; every offset is that of the next record."""

    committed: int
    received: int
    done: int
    # what was handed out and is not done: next offset, records, bytes
    open: deque[tuple[int, int, int]] = field(default_factory=deque)
    records: int = 0
    size: int = 0


class Ledger:
    """The books of all assigned partitions; knows nothing of Kafka.

    For every partition ``committable <= done <= received`` holds, and none of them ever falls
    while the partition stays assigned. Not thread-safe: it belongs to the worker's event loop.
    """

    def __init__(self) -> None:
        self._accounts: dict[Partition, _Account] = {}
        self._size = 0

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._accounts

    def assign(self, partition: Partition, committed: int, start: int | None = None) -> None:
        """Open the books of a partition.

        Parameters
        ----------
        partition
            The partition; books that it already has are closed first.
        committed
            The group's committed offset.
        start
            Where reading starts, if earlier: records in between are handed out to restore state,
            and nothing is committed until they are passed.

        Raises
        ------
        ValueError
            If reading would start beyond the commit, which would skip records.
        """
        start = committed if start is None else start
        if start > committed:
            msg = f"{partition}: reading starts at {start}, beyond the commit at {committed}"
            raise ValueError(msg)
        self.revoke([partition])
        self._accounts[partition] = _Account(committed, start, start)

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Close the books of partitions; later reports about them are ignored."""
        for partition in partitions:
            account = self._accounts.pop(partition, None)
            if account is not None:
                self._size -= account.size

    def received(
        self, partition: Partition, next_offset: int, records: int = 1, size: int = 0
    ) -> None:
        """Book records as handed out.

        Parameters
        ----------
        partition
            Where they come from.
        next_offset
            The offset after the last of them.
        records, size
            How many they are, and their bytes.

        Raises
        ------
        ValueError
            If they were handed out before.
        """
        account = self._accounts.get(partition)
        if account is None:
            return
        if next_offset <= account.received:
            msg = f"{partition}: handed out up to {account.received}, now again {next_offset}"
            raise ValueError(msg)
        account.received = next_offset
        account.open.append((next_offset, records, size))
        account.records += records
        account.size += size
        self._size += size

    def done(self, partition: Partition, next_offset: int) -> None:
        """Book all records before an offset as done: processed, and their outputs published.

        An offset before an earlier one changes nothing.

        Raises
        ------
        ValueError
            If it lies beyond what was handed out; committing it would lose records.
        """
        account = self._accounts.get(partition)
        if account is None:
            return
        if next_offset > account.received:
            msg = f"{partition}: done up to {next_offset}, handed out up to {account.received}"
            raise ValueError(msg)
        account.done = max(account.done, next_offset)
        while account.open and account.open[0][0] <= account.done:
            _, records, size = account.open.popleft()
            account.records -= records
            account.size -= size
            self._size -= size

    def committable(self) -> dict[Partition, int]:
        """Return the offset to commit for every partition where that is news."""
        return {
            partition: account.done
            for partition, account in self._accounts.items()
            if account.done > account.committed
        }

    def committed(self, partition: Partition, offset: int) -> None:
        """Book a commit that the broker has confirmed."""
        account = self._accounts.get(partition)
        if account is not None:
            account.committed = max(account.committed, offset)

    def positions(self) -> dict[Partition, int]:
        """Return how far every assigned partition is done."""
        accounts = list(self._accounts.items())  # others may ask from their threads
        return {partition: account.done for partition, account in accounts}

    def pending(self, partition: Partition) -> int:
        """Return how many records of a partition are handed out and not done."""
        account = self._accounts.get(partition)
        return 0 if account is None else account.records

    @property
    def size(self) -> int:
        """Bytes of all records that are handed out and not done."""
        return self._size
