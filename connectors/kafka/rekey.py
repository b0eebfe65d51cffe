"""Re-keying: records that are not keyed by entity, rewritten so that they are.

Log shippers and flow exporters key by machine, or not at all, and so the records of one entity come
on several partitions. Read together, they are put back into one order by their timestamps before
they are written on, as Kafka Streams does: of all partitions the earliest record goes first, and a
partition that has nothing to offer is waited for, unless there is nothing in it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from connectors.base import Fetch, Origin, Output, Partition
from connectors.kafka.handler import Batch
from connectors.kafka.origin import HEADER, encode_origin

__all__ = ["KeysOf", "Rekeyer"]

# The entity key of each record; None where it cannot be told.
KeysOf = Callable[[Fetch], Sequence[bytes | None]]

NS_PER_MS = 1_000_000

MESSAGE_BYTES = 1 << 20


@dataclass(slots=True)
class _Held:
    """Records of a fetch that are not written on yet, from row ``next`` on."""

    fetch: Fetch
    keys: Sequence[bytes | None]
    times: NDArray[np.int64]
    next: int = 0


@dataclass(slots=True)
class _Queue:
    """What is held back of one partition."""

    held: deque[_Held] = field(default_factory=deque)
    # The latest timestamp so far: a record that is out of order within its partition counts as
    # being of that time, since it cannot overtake those before it.
    clock: int = np.iinfo(np.int64).min

    def next_time(self) -> int:
        """Return the time of the first record held back."""
        first = self.held[0]
        return int(first.times[first.next])


class Rekeyer:
    """Merges partitions by time and rewrites their records under their entity keys.

    Parameters
    ----------
    topic
        Where to write.
    keys_of
        Tells the entity keys of a fetch. A record without one is passed on under the key it has,
        or else that of its partition, so that the next stage finds out and says what is wrong
        with it. Whenever it is written again, after a crash, it goes to the same partition.
    longest
        Of a longer value only the beginning is written, one byte more than that: the next stage
        will find it too large, and the topic must take it.

    Notes
    -----
    The timestamp, the value and other facts of a record stay; the header ``eddy-origin`` tells
    where it was first read. A tombstone has no value to decode and is dropped.

    The records of a partition are written in its order, those of one key to one partition, and
    none is left out, so that a reader can tell what was written again after a crash.
    """

    def __init__(self, topic: str, keys_of: KeysOf, longest: int = MESSAGE_BYTES) -> None:
        self._topic = topic
        self._keep = longest + 1
        self._keys_of = keys_of
        self._queues: dict[Partition, _Queue] = {}

    @property
    def held(self) -> int:
        """Number of records that are held back."""
        queues = self._queues.values()
        return sum(len(x.fetch) - x.next for queue in queues for x in queue.held)

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Take on partitions, all of which are waited for from now on."""
        for partition in partitions:
            self._queues[partition] = _Queue()

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Give up partitions and forget what is held back of them."""
        for partition in partitions:
            self._queues.pop(partition, None)

    def add(self, fetches: Iterable[Fetch], exhausted: Collection[Partition]) -> Batch:
        """Take records, and return those whose turn has come.

        Parameters
        ----------
        fetches
            Records of assigned partitions, each partition's in order.
        exhausted
            The partitions of which there is nothing more to read, these fetches included.

        Returns
        -------
        Batch
            The records in time order, ties by topic and partition; and for each partition that has
            advanced the position before its first record that is still held back.
        """
        for fetch in fetches:
            queue = self._queues.get(fetch.partition)
            if queue is not None and len(fetch):
                times = np.maximum.accumulate(np.maximum(fetch.timestamps, queue.clock))
                queue.clock = int(times[-1])
                queue.held.append(_Held(fetch, self._keys_of(fetch), times))
        outputs: list[Output] = []
        positions: dict[Partition, int] = {}
        heap = [
            (int(q.held[0].times[q.held[0].next]), p) for p, q in self._queues.items() if q.held
        ]
        heapq.heapify(heap)
        awaited = sum(not q.held and p not in exhausted for p, q in self._queues.items())
        while heap and not awaited:
            _, partition = heapq.heappop(heap)
            queue = self._queues[partition]
            # as long as this partition is the earliest, without a look at the others
            limit = heap[0] if heap else None
            positions[partition] = self._write(queue, partition, limit, outputs)
            if queue.held:
                heapq.heappush(heap, (queue.next_time(), partition))
            elif partition not in exhausted:
                awaited += 1
        return Batch(positions=positions, merged=outputs)

    def _write(
        self,
        queue: _Queue,
        partition: Partition,
        limit: tuple[int, Partition] | None,
        outputs: list[Output],
    ) -> int:
        """Write records of one fetch up to another partition's next one; return the position."""
        held = queue.held[0]
        end = len(held.fetch)
        if limit is not None:
            time, other = limit
            # at a tie the lower partition goes first
            end = int(np.searchsorted(held.times, time if partition > other else time + 1))
            end = max(held.next + 1, end)
        for row in range(held.next, end):
            output = self._output(held, row)
            if output is not None:
                outputs.append(output)
        held.next = end
        if end == len(held.fetch):
            queue.held.popleft()
        return int(held.fetch.offsets[end - 1]) + 1

    def _output(self, held: _Held, row: int) -> Output | None:
        fetch = held.fetch
        value = fetch.values[row]
        if value is None:
            return None
        topic, number = fetch.partition
        key = held.keys[row]
        if key is None:
            key = fetch.keys[row]
        if key is None:
            key = f"{topic}/{number}".encode()
        origin = None if fetch.origins is None else fetch.origins[row]
        if origin is None or origin.topic == topic:
            # a record cannot have been rewritten from the topic it is in: whoever says so errs
            origin = Origin(topic, number, int(fetch.offsets[row]))
        return Output(
            self._topic,
            key,
            value[: self._keep],
            int(fetch.timestamps[row]) // NS_PER_MS,
            ((HEADER, encode_origin(origin)),),
        )
