"""Repetitions of the re-keying stage: what it had written after its last commit, written again.

A worker of that stage which crashes, or loses its partitions, is followed by one that begins at the
last commit. So each record of a source partition is written once at least. It always goes to the
same partition, since its key follows from its value; and every writer begins at a commit, before
which all is written, and goes on in the order of the source without leaving anything out. Whoever
writes a record has thus made sure that all earlier ones of its source partition are there. Hence in
one partition a record at or below the highest offset seen of its source partition was seen before,
whatever several writers made of the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agents.keys import group
from agents.records import Ints
from connectors.base import Fetch

__all__ = ["Repeats"]


class Repeats:
    """Drops repeated records of one partition; the state is two numbers a source partition.

    Parameters
    ----------
    topic
        The source topic. Records from elsewhere are none of the re-keying stage's, and pass.

    Notes
    -----
    A source topic that is deleted and made again counts its offsets from 0. Its records are later
    than all before them, whereas a repetition has the timestamp that it had the first time; so
    low offsets with a later timestamp begin a new count.

    Records count as seen, too, that were left out on purpose: offsets of the re-keying stage's
    group which are set back bring no old records again. And the stream's key, and the number of
    partitions that records are rewritten to, must stay: they decide where a record goes.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        # of each source partition the highest offset and the latest timestamp so far
        self._seen: dict[int, tuple[int, int]] = {}

    def drop(self, fetch: Fetch) -> Fetch:
        """Return a fetch without the records that were seen before."""
        if fetch.origins is None or not len(fetch):
            return fetch
        topics, numbers, offsets = zip(*fetch.origins, strict=True)
        rows = np.flatnonzero([topic == self._topic for topic in topics])
        number = np.array(numbers, dtype=np.int64)[rows]
        offset = np.array(offsets, dtype=np.int64)[rows]
        timestamp = fetch.timestamps[rows]
        fresh = np.ones(len(fetch), dtype=bool)
        groups = group(number)
        ends = groups.start + groups.count
        for source, start, end in zip(
            groups.slot.tolist(), groups.start.tolist(), ends.tolist(), strict=True
        ):
            index = groups.order[start:end]
            fresh[rows[index]] = self._advance(source, offset[index], timestamp[index])
        return fetch if fresh.all() else fetch.select(fresh)

    def state(self) -> dict[str, list[int]]:
        """Return the state as columns of one row a source partition."""
        rows = sorted(self._seen.items())
        return {
            "partition": [number for number, _ in rows],
            "offset": [seen[0] for _, seen in rows],
            "timestamp": [seen[1] for _, seen in rows],
        }

    def restore(self, state: Mapping[str, Sequence[int]]) -> None:
        """Go on from a state that :meth:`state` returned."""
        columns = (state["partition"], state["offset"], state["timestamp"])
        self._seen = {number: (at, time) for number, at, time in zip(*columns, strict=True)}

    def _advance(self, source: int, offset: Ints, timestamp: Ints) -> NDArray[np.bool_]:
        """Tell which records of one source partition are new, and remember them all."""
        highest, latest = self._seen.get(source, (-1, -1))
        fresh = np.ones(len(offset), dtype=bool)
        first = 0
        while first < len(offset):
            before = _before(highest, offset[first:])
            known = offset[first:] <= before
            anew = known & (timestamp[first:] > _before(latest, timestamp[first:]))
            count = int(anew.argmax()) if anew.any() else len(anew)
            fresh[first : first + count] = ~known[:count]
            part = slice(first, first + count)
            highest = max(highest, int(offset[part].max(initial=-1)))
            latest = max(latest, int(timestamp[part].max(initial=-1)))
            first += count
            if first < len(offset):
                highest = -1  # the topic was made again
        self._seen[source] = (highest, latest)
        return fresh


def _before(start: int, values: Ints) -> Ints:
    """Return for each value the maximum of ``start`` and all values before it."""
    return np.maximum.accumulate(np.concatenate(([start], values[:-1])))
