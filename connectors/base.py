"""The contract between Eddy and an outside system: whole fetches in, batches of messages out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Partition(NamedTuple):
    """A partition of a topic; all state that can change an output belongs to one."""

    topic: str
    number: int


class Origin(NamedTuple):
    """Where a record was first read, before it was rewritten under another key."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """The records of one partition from one poll, in offset order.

    How a partition is cut into fetches carries no meaning.

    Attributes
    ----------
    partition
        Where the records come from.
    offsets
        ``[n]`` int64, increasing; gaps are legal (compaction, transactions).
    timestamps
        ``[n]`` int64, the log's own time of each record in ns since 1970 UTC; 0 where the system
        has none (files), and then the event time stands in.
    keys, values
        ``n`` raw keys and values; a value of ``None`` is a tombstone.
    origins
        Where each record was first read, for records that a re-keying stage rewrote.
    """

    partition: Partition
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    origins: Sequence[Origin] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Fetch:
        """Cut out consecutive records."""
        return Fetch(
            self.partition,
            self.offsets[rows],
            self.timestamps[rows],
            self.keys[rows],
            self.values[rows],
            None if self.origins is None else self.origins[rows],
        )

    def select(self, keep: NDArray[np.bool_]) -> Fetch:
        """Keep the records marked true in ``[n]``."""
        rows = np.flatnonzero(keep).tolist()
        return Fetch(
            self.partition,
            self.offsets[keep],
            self.timestamps[keep],
            [self.keys[row] for row in rows],
            [self.values[row] for row in rows],
            None if self.origins is None else [self.origins[row] for row in rows],
        )

    @classmethod
    def join(cls, parts: Sequence[Fetch]) -> Fetch:
        """Join consecutive fetches of one partition; at least one."""
        first = parts[0]
        if len(parts) == 1:
            return first
        origins = None
        if any(part.origins is not None for part in parts):
            origins = [origin for part in parts for origin in part.sources()]
        return cls(
            first.partition,
            np.concatenate([part.offsets for part in parts]),
            np.concatenate([part.timestamps for part in parts]),
            [key for part in parts for key in part.keys],
            [value for part in parts for value in part.values],
            origins,
        )

    def sources(self) -> Sequence[Origin]:
        """Return where each record was first read: here, unless it was rewritten."""
        if self.origins is not None:
            return self.origins
        return [Origin(*self.partition, offset) for offset in self.offsets.tolist()]


class Output(NamedTuple):
    """A message to publish.

    Attributes
    ----------
    topic
        Full name of the topic.
    key, value
        Raw bytes; the key decides the partition.
    timestamp_ms
        Record timestamp, ms since 1970 UTC; ``None`` lets the system put its own.
    headers
        Record headers.
    """

    topic: str
    key: bytes | None
    value: bytes
    timestamp_ms: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def flatten(outputs: Mapping[Partition, Sequence[Output]]) -> list[Output]:
    """Return the messages of all partitions one after the other, those of each in order."""
    return [output for messages in outputs.values() for output in messages]


class Source(Protocol):
    """Something that can be read from a position on.

    ``fetches`` may block. It ends when the source ends; a source without an end never does. A
    second call starts again at the beginning, with the same offsets. ``close`` may be called at
    any time, also twice.
    """

    def fetches(self) -> Iterator[Fetch]:
        """Yield the records in order, a partition's offsets increasing."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class Sink(Protocol):
    """Something that takes messages.

    ``write`` returns when the messages are safe: a crash after it loses none. It keeps the order
    of messages with the same topic and key. After an error it is undefined which messages of
    the call were written, and all of them may be written again. ``close`` may be called twice.
    """

    def write(self, outputs: Sequence[Output]) -> None:
        """Write all messages; may block."""
        ...

    def close(self) -> None:
        """Flush, and let go of files and connections."""
        ...
