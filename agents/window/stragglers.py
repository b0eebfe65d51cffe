"""Sessions that records reach one by one: late ones, which may join what was apart."""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from agents.encode import Features
from agents.records import Ints, Records
from agents.window.base import Windows
from agents.window.slots import (
    COUNT,
    FIRST,
    JUDGED,
    LAST,
    LOG_TIME,
    NEWEST,
    NUMBER,
    PENDING,
    REVISION,
    START,
    Slots,
)


class Complete:
    """Sessions as they are when a record of the fetch completes, changes or retracts them."""

    def __init__(self) -> None:
        self.trigger: list[Ints] = []
        self.facts: list[Ints] = []
        self.num: list[NDArray[np.float32]] = []
        self.cat: list[NDArray[np.int32]] = []
        self.name: list[tuple[str, str]] = []
        self.retracted: list[bool] = []

    def __bool__(self) -> bool:
        return bool(self.name)

    def put(self, slots: Slots, which: Ints, trigger: Ints, *, retracted: bool = False) -> None:
        """Copy sessions as they are now."""
        self.trigger.append(trigger)
        self.facts.append(slots.facts.take(which, 0))
        self.num.append(slots.num.take(which, 0))
        self.cat.append(slots.cat.take(which, 0))
        self.name += [slots.name[slot] for slot in which.tolist()]
        self.retracted += [retracted] * len(which)


def complete_windows(complete: Complete, size: int) -> Windows:
    """Make windows, in the order of the records that complete them, then of end and opening."""
    facts, trigger = np.concatenate(complete.facts), np.concatenate(complete.trigger)
    retracted = np.array(complete.retracted, dtype=bool)
    order = np.lexsort((facts[:, NUMBER], facts[:, NEWEST], ~retracted, trigger))
    facts, retracted = facts[order], retracted[order]
    names = [complete.name[i] for i in order.tolist()]
    return Windows(
        num=np.concatenate(complete.num)[order],
        cat=np.concatenate(complete.cat)[order],
        length=np.minimum(facts[:, COUNT], size),
        key=[key for key, _ in names],
        identity=[
            f"{session}@{begin}" if session else str(begin)
            for (_, session), begin in zip(names, facts[:, START].tolist(), strict=True)
        ],
        row=None,
        start=facts[:, START],
        end=facts[:, NEWEST],
        first_offset=facts[:, FIRST],
        last_offset=facts[:, LAST],
        records=facts[:, COUNT],
        log_time=facts[:, LOG_TIME],
        revision=facts[:, REVISION],
        retracted=retracted,
        revised=facts[:, JUDGED] == 1,
    )


class Stragglers:
    """Takes records one by one into the sessions that they touch.

    Parameters
    ----------
    slots
        The sessions.
    gap, over, gone
        How long after its newest record a session goes on, is complete, and can change no more.
    newest
        ``[n + 1]`` newest event time before the fetch and after each of its records.
    seen
        Records of the partition before the fetch.
    complete
        Takes what is to be published.
    """

    def __init__(
        self,
        slots: Slots,
        gap: int,
        over: int,
        gone: int,
        newest: Ints,
        seen: int,
        complete: Complete,
    ) -> None:
        self._slots, self._complete = slots, complete
        self._gap, self._over, self._gone = gap, over, gone
        self._newest, self._seen = newest, seen

    def take(
        self, records: Records, features: Features, index: int, entity: tuple[str, str]
    ) -> None:
        """Take one record into its session: a new one, that which it touches, or two as one."""
        time, mark = int(records.time[index]), int(self._newest[index + 1])
        slots = self._slots
        touched = self._touched(entity, time, mark)
        for slot, facts in touched:
            due = facts[NEWEST] + self._over
            if facts[PENDING] and due < mark:
                self._publish(slot, int(self._newest[1:].searchsorted(due, side="right")))
        if touched:
            slot = touched[0][0]
            if len(touched) > 1:
                later = touched[1][0]
                self._retract(later, index)
                slots.merge(slot, later)
                slots.close(np.array([later]))
            if time < touched[0][1][START]:
                self._retract(slot, index)
        else:
            slot = self._open(entity, time, index)
        slots.insert(slot, index, (records, features))
        facts = slots.facts[slot].tolist()
        offset = int(records.offset[index])
        facts[COUNT] += 1
        facts[START] = min(facts[START], time)
        facts[NEWEST] = max(facts[NEWEST], time)
        facts[FIRST] = min(facts[FIRST], offset)
        facts[LAST] = max(facts[LAST], offset)
        facts[LOG_TIME] = max(facts[LOG_TIME], int(records.log_time[index]))
        facts[PENDING] = 1
        slots.facts[slot] = facts
        if facts[NEWEST] + self._over < mark:
            self._publish(slot, index)

    def _touched(
        self, entity: tuple[str, str], time: int, mark: int
    ) -> list[tuple[int, list[int]]]:
        """Find the one or two sessions, the earlier first, that a record belongs to."""
        gap, found = self._gap, []
        siblings = self._slots.of.get(entity, [])
        first = bisect_left(siblings, time - gap, key=self._newest_of)
        for slot in islice(siblings, first, None):
            facts = self._slots.facts[slot].tolist()
            if facts[START] - gap > time:
                break
            if facts[NEWEST] + self._gone >= mark:  # what is gone may still stand here
                found.append((slot, facts))
        return found

    def _newest_of(self, slot: int) -> int:
        return int(self._slots.facts[slot, NEWEST])

    def _open(self, entity: tuple[str, str], time: int, index: int) -> int:
        siblings = self._slots.of.setdefault(entity, [])
        place = bisect_left(siblings, time, key=self._newest_of)
        slot = self._slots.open(entity)
        siblings.insert(place, slot)
        self._slots.facts[slot, NUMBER] = self._seen + index
        return slot

    def _publish(self, slot: int, trigger: int) -> None:
        self._complete.put(self._slots, np.array([slot]), np.array([trigger]))
        facts = self._slots.facts[slot]
        facts[REVISION] += 1
        facts[JUDGED], facts[PENDING] = 1, 0

    def _retract(self, slot: int, trigger: int) -> None:
        """Take back what was published under an identity that is no more."""
        facts = self._slots.facts[slot]
        if facts[REVISION]:
            where = np.array([slot]), np.array([trigger])
            self._complete.put(self._slots, *where, retracted=True)
            facts[REVISION] = 0
