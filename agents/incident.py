"""Incidents: anomalous windows that belong together, opened within the budget.

Those of one key belong together. So do those of many keys that became odd for the same reason at
the same time: one change is one incident, however many keys feel it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from agents.budget import Budget
from agents.explain import Why, sentence
from agents.snapshot import State
from agents.surge import surges_within
from schemas.messages import Contribution, Incident

_SURGE = None
KEYS_TOLD = 100
KEYS_COUNTED = 10_000  # a surge of a million keys shall not fill memory and checkpoints


class Placed(NamedTuple):
    """Where an anomaly belongs: its incident, if any, and what to publish about it.

    ``surge`` tells whether many keys are odd for the same reason.
    """

    incident_id: str | None
    messages: list[Incident]
    surge: bool


@dataclass(slots=True)
class _Open:
    incident_id: str
    keys: dict[str, None]
    opened_at: int
    first: int
    last: int
    events: int
    min_p: float
    threshold: float
    top: list[Contribution] = field(default_factory=list)
    told: int = 0


class IncidentBook:
    """The incidents of one route in one partition.

    An anomaly that finds the budget of ``per_day`` spent (:mod:`agents.budget`), or so far spent
    that only rarer ones are worth the rest, opens nothing and is counted as suppressed. It still
    stands in the scored events.

    An anomaly goes to the open incident of its key, else to that of a surge which explains it,
    else it opens one.
    """

    def __init__(self, stream: str, route: str, per_day: float, gap: int) -> None:
        self._stream, self._route, self._gap = stream, route, gap
        self._budget = Budget(per_day)
        self._open: dict[str | None, _Open] = {}
        self._surges = surges_within(per_day)
        self.opened = 0
        self.suppressed = 0

    def add(
        self,
        event_id: str,
        key: str,
        time: int,
        now: int,
        score: float,
        p_value: float,
        threshold: float,
        why: Why,
    ) -> Placed:
        """Take in an anomaly.

        ``now`` is the newest event time of the partition up to this window: an incident whose gap
        has passed by then is over, whether or not it has been closed yet.
        """
        surge = self._surges.take(key, now, why.causes, score)
        messages = self._close([key, _SURGE], now)
        place = key if key in self._open or not surge else _SURGE
        found = self._open.get(place)
        if found is None:
            if not self._budget.affords(time, p_value / max(threshold, 1e-300)):
                self.suppressed += 1
                return Placed(None, messages, surge)
            keys = {key: None}
            name = incident_id(self._stream, self._route, event_id)
            found = _Open(name, keys, time, time, time, 1, p_value, threshold, why.top)
            self._open[place] = found
            self.opened += 1
            return Placed(name, [*messages, self._message(found, "open")], surge)
        found.events += 1
        found.last = max(found.last, time)
        if len(found.keys) < KEYS_COUNTED:
            found.keys[key] = None
        before = _severity(found)
        if p_value < found.min_p:
            found.min_p, found.top = p_value, why.top
        # a message for each doubling is enough to follow a long incident
        if found.events & (found.events - 1) == 0 or _severity(found) != before:
            messages.append(self._message(found, "updated"))
        return Placed(found.incident_id, messages, surge)

    def close_before(self, time: int) -> list[Incident]:
        """Close the incidents whose last event is more than the gap before ``time``."""
        return self._close(list(self._open), time)

    def finish(self) -> list[Incident]:
        """Close all incidents."""
        return self.close_before(2**62)

    def state(self) -> State:
        """Copy the state."""
        return {
            "opened": self.opened,
            "suppressed": self.suppressed,
            "openings": self._budget.state(),
            "open": [[place, msgspec.to_builtins(found)] for place, found in self._open.items()],
            "surges": self._surges.state(),
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self.opened, self.suppressed = state["opened"], state["suppressed"]
        self._budget.restore(state["openings"])
        self._open = {place: msgspec.convert(found, _Open) for place, found in state["open"]}
        self._surges.restore(state["surges"])

    def _close(self, places: Iterable[str | None], now: int) -> list[Incident]:
        messages = []
        for place in places:
            found = self._open.get(place)
            if found is not None and now - found.last > self._gap:
                messages.append(self._message(self._open.pop(place), "closed"))
        return messages

    def _message(self, found: _Open, state: Literal["open", "updated", "closed"]) -> Incident:
        revision, found.told = found.told, found.told + 1
        count = "1 window" if found.events == 1 else f"{found.events} windows"
        keys = [key for key in found.keys if key]
        who = keys[0] if len(keys) == 1 else f"{len(keys)} keys at once" if keys else ""
        return Incident(
            incident_id=found.incident_id,
            state=state,
            severity=_severity(found),
            stream=self._stream,
            route=self._route,
            keys=keys[:KEYS_TOLD],
            key_count=len(keys),
            opened_at=found.opened_at,
            first_event=found.first,
            last_event=found.last,
            events=found.events,
            min_p_value=found.min_p,
            top=found.top,
            summary=f"{self._stream} {who}".rstrip() + f": {sentence(found.top)}, {count}",
            revision=revision,
        )


def incident_id(stream: str, route: str, cause: str) -> str:
    """Name the incident that something, told by its id, opens."""
    text = f"incident\0{stream}\0{route}\0{cause}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _severity(found: _Open) -> Literal["low", "medium", "high"]:
    ratio = found.min_p / max(found.threshold, 1e-300)
    if ratio <= 1e-3:
        return "high"
    return "medium" if ratio <= 0.05 else "low"
