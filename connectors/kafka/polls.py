"""What is asked of the consumer's thread, and what it answers."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from connectors.base import Fetch, Partition


class Committed(enum.Enum):
    """How a commit went."""

    DONE = "done"
    LATER = "later"  # the coordinator is away: try again
    LOST = "lost"  # the group has gone on without us: the records will be read again


class Commit(NamedTuple):
    """A committed offset, the text that was committed with it, and whether it is the first."""

    offset: int
    memo: str
    first: bool = False


@dataclass(frozen=True, slots=True)
class Poll:
    """What one poll brought.

    Attributes
    ----------
    epoch
        The assignment under which the records were read.
    fetches
        At most one per partition.
    marks
        For each assigned partition the position after this poll and the end of its log, where
        both are known.
    out_of_range
        Partitions whose position is not in the log any more, or not yet.
    coordinated
        Whether the group's coordinator is known; it is not while its broker is away.
    silent
        Partitions whose leader has not answered for a while, though it was asked.
    """

    epoch: int
    fetches: list[Fetch] = field(default_factory=list)
    marks: Mapping[Partition, tuple[int, int]] = field(default_factory=dict)
    out_of_range: frozenset[Partition] = frozenset()
    coordinated: bool = True
    silent: frozenset[Partition] = frozenset()
