"""The scored events of a stream as columns, by the partition whose records they follow from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.audit.places import Column
from agents.records import Ints
from connectors.base import Partition
from schemas.messages import ScoredEvent

EXACT = (
    *("stream", "route", "key", "window_start", "window_end", "topic", "partition"),
    *("first_offset", "last_offset", "records", "model_id", "detector", "incident_id"),
)
"""What all copies of an event agree in; of scores and p-values they do up to rounding."""


@dataclass(frozen=True, slots=True)
class Events:
    """Events of one partition, each id and revision once.

    Attributes
    ----------
    first, last
        ``[n]`` offsets of the records that they point at.
    anomaly
        ``[n]`` whether it is one by its last copy.
    repeated, flipped, conflicting
        Further copies; how many ids have copies that differ in ``is_anomaly``; how many have
        copies that differ in what cannot differ.
    """

    first: Ints
    last: Ints
    anomaly: NDArray[np.bool_]
    repeated: int = 0
    flipped: int = 0
    conflicting: int = 0


NO_EVENTS = Events(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool))


class EventColumns:
    """Collects the events of one partition; 33 bytes an event."""

    def __init__(self) -> None:
        self._name, self._facts = Column("Q"), Column("Q")
        self._first, self._last, self._anomaly = Column(), Column(), Column("b")

    def add(self, events: Iterable[ScoredEvent]) -> None:
        """Take in events."""
        events = list(events)
        names = [_hash(f"{x.event_id}\0{x.revision}") for x in events]
        self._name.extend(np.array(names, np.uint64))
        facts = [_hash(repr([getattr(x, name) for name in EXACT])) for x in events]
        self._facts.extend(np.array(facts, np.uint64))
        self._first.extend(np.array([x.first_offset for x in events], np.int64))
        self._last.extend(np.array([x.last_offset for x in events], np.int64))
        self._anomaly.extend(np.array([x.is_anomaly for x in events], np.int8))

    def settle(self) -> Events:
        """Put copies together."""
        name, facts = self._name.array(), self._facts.array()
        anomaly = self._anomaly.array() > 0
        order = np.argsort(name, kind="stable")
        copy = np.flatnonzero(np.diff(name[order]) == 0)  # places in order before a further copy
        before, after = order[copy], order[copy + 1]
        keep = np.ones(len(name), dtype=bool)
        keep[before] = False
        return Events(
            self._first.array()[keep],
            self._last.array()[keep],
            anomaly[keep],
            repeated=len(copy),
            flipped=_distinct(name, after[anomaly[before] != anomaly[after]]),
            conflicting=_distinct(name, after[facts[before] != facts[after]]),
        )


def by_partition(events: Iterable[ScoredEvent], into: dict[Partition, EventColumns]) -> None:
    """Sort events by the partition that they name."""
    parts: dict[Partition, list[ScoredEvent]] = {}
    for event in events:
        parts.setdefault(Partition(event.topic, event.partition), []).append(event)
    for partition, part in parts.items():
        into.setdefault(partition, EventColumns()).add(part)


def _distinct(names: NDArray[np.generic], rows: Ints) -> int:
    return len(np.unique(names[rows]))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
