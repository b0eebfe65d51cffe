"""How what a handler makes of records gets to the broker, and when it counts as done.

Two ways: at least once publishes first and commits afterwards, so that a crash in between leads
to repetition; exactly once (:mod:`connectors.kafka.transactions`) does both in one step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from connectors.base import Partition, flatten
from connectors.kafka.handler import Batch
from connectors.kafka.publisher import Publisher

__all__ = ["AtLeastOnce", "Delivery", "Lost"]


class Lost(Exception):
    """A partition is another worker's by now: what was to be delivered is made again by that."""


class Delivery(Protocol):
    """Delivers the batches of one worker, one after the other; belongs to its event loop.

    Attributes
    ----------
    repeats
        Whether more may have been published than is committed.
    """

    repeats: bool

    async def take_on(self, partitions: Collection[Partition]) -> None:
        """Get ready for partitions, and for no others, before their commits are read."""
        ...

    def begin(self, committed: Mapping[Partition, int]) -> None:
        """Take note of the commits from which the partitions go on."""
        ...

    async def deliver(self, batch: Batch) -> Mapping[Partition, int]:
        """Return when a batch is safe, with the offsets that were committed together with it.

        Raises
        ------
        Lost
            If a partition is not ours any more. Nothing else of this assignment may follow.
        DataError
            If a message is larger than its topic takes.
        """
        ...

    async def leave(self) -> None:
        """Give up all partitions, and what is under way for them; takes some seconds at most."""
        ...

    async def stop(self) -> None:
        """Close the connections; what is under way may be lost."""
        ...


class AtLeastOnce:
    """Publishes; the commit follows later. Of partitions there is nothing to know."""

    repeats = True

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def take_on(self, partitions: Collection[Partition]) -> None:
        """Do nothing."""

    def begin(self, committed: Mapping[Partition, int]) -> None:
        """Do nothing."""

    async def deliver(self, batch: Batch) -> Mapping[Partition, int]:
        """Publish a batch; nothing is committed with it."""
        outputs = [*batch.merged, *flatten(batch.outputs)]
        if outputs:
            await self._publisher.publish(outputs)
        return {}

    async def leave(self) -> None:
        """Do nothing: what is under way is published, and repeated by the next owner."""

    async def stop(self) -> None:
        """Close the connections."""
        await self._publisher.stop()
