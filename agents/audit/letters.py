"""The dead letters of a stream, each once, beside the records that they speak of."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from agents.audit.places import Column, find, place
from agents.records import Ints
from schemas.messages import DeadLetter

_LATE, _BAD = 1, 2


class Letters:
    """Dead letters by the position of their record in the stream's source ``topic``.

    Attributes
    ----------
    places
        ``[n]`` positions, sorted, each once.
    bad, late
        ``[n]`` whether a letter says that its record could not be used, or came too late; rows of
        one Arrow message may differ.
    met
        ``[n]`` offset of the record in the log that was audited, -1 of those not met there.
    expected
        ``[n]`` whether its record cannot be used indeed.
    repeated
        Letters that name a position again.
    elsewhere
        Letters that name another topic.
    """

    def __init__(self, topic: str) -> None:
        self.elsewhere = 0
        self._topic = topic
        self._places, self._kinds = Column(), Column("b")

    def add(self, letters: Iterable[DeadLetter]) -> None:
        """Take in letters of the stream."""
        letters = list(letters)
        found = [x for x in letters if x.topic == self._topic]
        self.elsewhere += len(letters) - len(found)
        self._places.extend(np.array([place(x.partition, x.offset) for x in found], np.int64))
        self._kinds.extend(np.array([_LATE if x.reason == "late" else _BAD for x in found], "b"))

    def settle(self) -> None:
        """Sort: all letters have been added."""
        self.places, index = np.unique(self._places.array(), return_inverse=True)
        kinds = np.zeros(len(self.places), dtype=np.int8)
        np.bitwise_or.at(kinds, index, self._kinds.array())
        self.repeated = len(index) - len(kinds)
        self.bad, self.late = kinds & _BAD > 0, kinds & _LATE > 0
        self.met = np.full(len(kinds), -1, dtype=np.int64)
        self.partition = np.full(len(kinds), -1, dtype=np.int64)
        self.expected = np.zeros(len(kinds), dtype=bool)

    def meet(self, places: Ints, offsets: Ints, partition: int) -> None:
        """Take note of ``[m]`` records, first read at ``places``; of several the first counts."""
        index, hit = find(places, self.places)
        # backwards: of equal indices the last assignment stays
        rows, where = index[hit][::-1], offsets[hit][::-1]
        fresh = self.met[rows] < 0
        self.met[rows[fresh]], self.partition[rows[fresh]] = where[fresh], partition

    def expect(self, places: Ints) -> Ints:
        """Take note of ``[m]`` records that cannot be used; return those without a letter."""
        index, hit = find(places, self.places)
        index = index[hit]
        self.expected[index] = True
        hit[hit] = self.bad[index]
        missing: Ints = places[~hit]
        return missing
