"""Reconciling the re-keying stage: every record of the source stands in the re-keyed topic."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from agents.audit.places import (
    ELSEWHERE,
    Column,
    find,
    offset_of,
    partition_of,
    place,
    source_places,
)
from agents.audit.report import Findings, some
from agents.records import Ints
from connectors.base import Fetch, Partition


class Rekeyed:
    """The positions that the records of a re-keyed topic name, each once.

    Parameters
    ----------
    columns
        Positions by the partition of the re-keyed topic.
    expired
        Whether that topic has lost its beginning.
    """

    def __init__(self, columns: Iterable[Column], *, expired: bool) -> None:
        every = [np.asarray(column.array(), dtype=np.int64) for column in columns]
        joined = np.concatenate([np.empty(0, dtype=np.int64), *every])
        self._expired = expired
        self.foreign = int((joined == ELSEWHERE).sum())
        self._places: Ints = np.unique(joined[joined != ELSEWHERE])

    def check(
        self,
        partition: Partition,
        fetches: Iterable[Fetch],
        committed: int,
        committed_after: int,
        found: Findings,
    ) -> None:
        """Compare the records of one source partition, all that there are, with the topic."""
        missing: list[int] = []
        lost = tombstones = 0
        end = begin = -1
        for fetch in fetches:
            begin = int(fetch.offsets[0]) if begin < 0 else begin
            end = int(fetch.offsets[-1]) + 1
            part = fetch[: int(np.searchsorted(fetch.offsets, committed))]
            value = np.array([value is not None for value in part.values], dtype=bool)
            tombstones += len(part) - int(value.sum())
            places = source_places(part, partition.topic)
            _, there = find(places, self._places)
            absent = places[value & (places != ELSEWHERE) & ~there]
            lost += len(absent)
            missing += offset_of(absent[: max(0, 6 - len(missing))])
        if lost:
            say = found.note if self._expired else found.problem
            say(
                "rekey-missing",
                f"{lost:,} records of {partition.topic}/{partition.number} were committed by the "
                f"re-keying stage and are not in its topic, at offsets {some(missing)}"
                + ("; the topic has lost its beginning" if self._expired else ""),
            )
        if tombstones:
            found.note("rekey-tombstones", f"{tombstones:,} tombstones were not re-keyed")
        self._beyond(partition, max(begin, 0), end, committed_after, found)

    def _beyond(
        self, partition: Partition, begin: int, end: int, committed: int, found: Findings
    ) -> None:
        mine = self._places[partition_of(self._places) == partition.number]
        beyond = int((mine >= place(partition.number, committed)).sum())
        if beyond:
            found.note(
                "rekey-uncommitted",
                f"{beyond:,} records of {partition.topic}/{partition.number} at or beyond the "
                f"commit {committed} are re-keyed: published, not yet committed",
            )
        nowhere = mine[mine >= place(partition.number, max(end, begin))]
        if len(nowhere):
            found.problem(
                "rekey-nowhere",
                f"{len(nowhere):,} re-keyed records name a record of "
                f"{partition.topic}/{partition.number} that does not exist, at offsets "
                f"{some(offset_of(nowhere))}",
            )
