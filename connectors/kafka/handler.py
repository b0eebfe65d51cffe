"""What the worker asks of the pipeline that it drives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from connectors.base import Fetch, Output, Partition

__all__ = ["Batch", "Handler"]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a handler wants published, and what may be committed afterwards.

    Attributes
    ----------
    outputs
        Messages to publish, by the partition whose records they follow from, in order.
    positions
        For each partition that has advanced the offset of its next record: everything before it
        is processed, and its messages are among these outputs or those of earlier batches.
    merged
        Messages that follow from records of several partitions, in one order. They cannot be
        published exactly once.
    """

    outputs: Mapping[Partition, Sequence[Output]] = field(default_factory=dict)
    positions: Mapping[Partition, int] = field(default_factory=dict)
    merged: Sequence[Output] = ()


class Handler(ABC):
    """The pipeline as a worker sees it; a handler without state of its own inherits what it can.

    All methods are called in one thread of their own, one at a time, and may take their time: the
    worker stays in its group meanwhile. An error ends the worker; nothing that was not published
    before is committed, and its successor reads it again.

    Outputs that are still under way when partitions are lost, because the group was cut off or the
    broker did not answer in time, are dropped, and so is the handler's claim to have made them:
    whatever it returns must follow from the records and what was restored.
    """

    def assigned(
        self, committed: Mapping[Partition, int], generation: int
    ) -> Mapping[Partition, int]:
        """Take on partitions, and leave all others; tell where to begin.

        Called before the first fetch, in the group's ``generation``. ``committed`` is the offset
        from which on nothing has been published. State that was kept from an earlier assignment
        is good if and only if it stands at exactly that offset. The result names the partitions
        that shall be read from an earlier offset, to restore their state; what falls before the
        commit is then not to be published again.

        Raises
        ------
        SetupError
            If that cannot be told yet, because something cannot be reached: the worker waits and
            asks again.
        """
        return {}

    @abstractmethod
    def process(self, fetches: list[Fetch]) -> Batch:
        """Process records; of each assigned partition every one, once, in offset order."""
        ...

    def resized(self, topic: str, before: int, now: int) -> None:
        """Take note of how many partitions a topic has, and had when its offsets were committed.

        Called before :meth:`assigned` when the topic is met first, and when the number is another
        one. Kafka's partitioner sends keys elsewhere from then on.
        """
        return

    def expired(self, partition: Partition, first: int, end: int) -> None:
        """Take note that the records from ``first`` to before ``end`` are gone, unread.

        Called before :meth:`assigned`, with ``end`` as the partition's commit.
        """
        return

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Take note that everything before these offsets is published and committed."""
        return

    def idle(self) -> Batch | None:
        """Use a moment at which no record waits; at most once per tick, also without partitions."""
        return None

    def wants_barrier(self) -> bool:
        """Tell whether something waits to be applied at a drained point; must be quick.

        Not asked before all has been made again that a predecessor may have published and not
        committed, so that what is repeated is repeated as it was.
        """
        return False

    def barrier(self, positions: Mapping[Partition, int]) -> Batch:
        """Apply it: all outputs are acknowledged, and ``positions`` are committed."""
        return Batch()

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Give up partitions, which may come back at once.

        Everything processed is published and committed, unless the time for that ran out.
        """
        return

    def stop(self) -> Batch:
        """Finish. What it returns is published and committed; only :meth:`committed` follows."""
        return Batch()
