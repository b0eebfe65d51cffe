"""Counting the records of one partition, by decoding them once more."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from agents.account import RecentIds
from agents.audit.letters import Letters
from agents.audit.places import Column, Runs, place, source_places
from agents.decode import Decoder
from agents.repeats import Repeats
from connectors.base import Fetch
from schemas.messages import Account, DeadLetter

NAMED = 5
"""How many records are named where all cannot be."""


@dataclass(slots=True)
class Counted:
    """What a partition holds; counts are of the offsets that its account speaks of.

    Attributes
    ----------
    offsets
        All that hold a record.
    records, filtered, dead_letters, duplicates
        As the fates of an account.
    unaccounted
        Messages before the commit that lie beyond the account.
    missing, named
        Records before the commit that cannot be used and have no dead letter: how many, and the
        first few by position.
    places
        Where each record was first read, for a stream that is re-keyed.
    """

    offsets: Runs = field(default_factory=Runs)
    records: int = 0
    filtered: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    unaccounted: int = 0
    missing: int = 0
    named: list[str] = field(default_factory=list)
    places: Column = field(default_factory=Column)


class Counter:
    """Counts the records of one partition; they must be given from the log's first on.

    Parameters
    ----------
    decoder
        Of the stream.
    account
        What the worker says, for the offsets it speaks of and nothing else.
    committed
        The first offset that need not be done.
    letters
        The stream's dead letters, to meet the records that they name.
    rekeyed
        Whether the log was written by the re-keying stage.
    """

    def __init__(
        self,
        decoder: Decoder,
        account: Account | None,
        committed: int,
        letters: Letters,
        *,
        rekeyed: bool,
    ) -> None:
        stream = decoder.stream
        self.counted = Counted()
        self._decoder, self._letters, self._source = decoder, letters, stream.source.topic
        self._begin = 0 if account is None else account.first_offset
        self._end = 0 if account is None else account.last_offset + 1
        self._committed = committed
        self._recent = RecentIds(stream.duplicates_within) if stream.id else None
        self._repeats = Repeats(self._source) if rekeyed else None

    def __call__(self, fetches: Iterable[Fetch]) -> Counted:
        """Count all records."""
        for fetch in fetches:
            for part in _cut(fetch, {self._begin, self._end, self._committed}):
                self._count(part)
        return self.counted

    def _count(self, fetch: Fetch) -> None:
        counted, first = self.counted, int(fetch.offsets[0])
        counted.offsets.add(fetch.offsets)
        places = source_places(fetch, self._source)
        self._letters.meet(places, fetch.offsets, fetch.partition.number)
        if self._repeats is not None:
            counted.places.extend(places)
        count = len(fetch)
        if self._repeats is not None:
            fetch = self._repeats.drop(fetch)
        again = count - len(fetch)
        decoded = self._decoder(fetch)
        bad = [place(x.partition, x.offset) for x in decoded.dead_letters]
        missing = self._letters.expect(np.unique(np.array(bad, dtype=np.int64)))
        records_in = decoded.records_in + again
        if self._recent is not None and decoded.records.ids is not None:
            again += sum(not self._recent.fresh(x) for x in decoded.records.ids)
        if self._begin <= first < self._end:
            counted.records += records_in
            counted.filtered += decoded.filtered
            counted.dead_letters += len(decoded.dead_letters)
            counted.duplicates += again
        elif self._end <= first < self._committed:
            counted.unaccounted += count
        if first < self._committed and len(missing):
            self._name(decoded.dead_letters, set(missing.tolist()))

    def _name(self, letters: Iterable[DeadLetter], missing: set[int]) -> None:
        self.counted.missing += len(missing)
        for letter in letters:
            if len(self.counted.named) == NAMED:
                break
            if place(letter.partition, letter.offset) in missing:
                self.counted.named.append(f"{letter.topic}/{letter.partition}/{letter.offset}")


def _cut(fetch: Fetch, at: set[int]) -> Iterator[Fetch]:
    """Cut a fetch before these offsets."""
    cuts = np.searchsorted(fetch.offsets, sorted(at)).tolist()
    bounds = [0, *cuts, len(fetch)]
    for begin, end in itertools.pairwise(bounds):
        if begin < end:
            yield fetch[begin:end]
