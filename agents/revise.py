"""revise: what windows that late records change do to all that was made of them before.

A window that is complete again (:mod:`agents.window`) goes through the model of now and is
published with a higher revision; nothing counts it twice:

- decide: it is judged by the calibration and threshold of now. Its score is not taken into the
  calibration, nor does it count towards the rate of windows.
- watch: does not see it.
- incidents: an anomaly that a revision finds goes to an incident, or opens one within the budget,
  as any other does; but a window goes there once at most. Later revisions name the incident of
  the first. What a revision takes back is published with ``is_anomaly`` false (also where only
  anomalies are published), and its incident neither grows nor shrinks, and ends by its gap.
- a retracted window is never an anomaly. Where it was one, the session that it has become part of
  is known for the same one.
- quarantine: each revision that is an anomaly. A revision ends with another record than the one
  before, so a window is held back from training if its last revision is an anomaly.
- account: counted under ``revisions`` only, but for the anomalies that revisions find.
- fitting and measuring: the last revisions alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from agents.snapshot import State

REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An anomalous window that incidents know of, and the incident that it went to, if any."""

    key: str
    start: int
    end: int
    incident_id: str | None
    surge: bool
    retracted: bool = False


class Told:
    """The windows of a route that were judged anomalies last, in whatever revision.

    The number that it remembers is fixed, so what it knows follows from the order of windows.
    """

    def __init__(self) -> None:
        self._known: dict[str, Anomaly] = {}

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._known

    def put(self, event_id: str, anomaly: Anomaly) -> None:
        """Remember an anomaly; the oldest is forgotten for it."""
        self._known[event_id] = anomaly
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def retract(self, event_id: str) -> None:
        """Take note that there is no such window any more."""
        if event_id in self._known:
            self._known[event_id] = replace(self._known[event_id], retracted=True)

    def find(self, event_id: str, key: str, start: int, end: int) -> Anomaly | None:
        """Return what is known of a window, or of a retracted one that it has swallowed."""
        if event_id in self._known:
            return self._known[event_id]
        for other in self._known.values():
            if other.retracted and other.key == key and start <= other.start <= other.end <= end:
                found = replace(other, start=start, end=end, retracted=False)
                self.put(event_id, found)
                return found
        return None

    def state(self) -> State:
        """Copy the state: what is known, the oldest first."""
        known: list[Any] = [[name, msgspec.to_builtins(a)] for name, a in self._known.items()]
        return {"known": known}

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._known = {name: msgspec.convert(a, Anomaly) for name, a in state["known"]}
