"""Incidents: anomalous windows of one key that belong together, opened within the budget."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from agents.explain import sentence
from schemas.messages import Contribution, Incident

_DAY = 86_400e9


@dataclass(slots=True)
class _Open:
    incident_id: str
    key: str
    opened_at: int
    first: int
    last: int
    events: int
    min_p: float
    threshold: float
    top: list[Contribution] = field(default_factory=list)


class IncidentBook:
    """The incidents of one route in one partition.

    The budget is a bucket of openings that fills with event time, ``per_day`` a day, and holds a
    day's worth (at least one): an anomaly that finds it empty, or emptier than its rarity warrants,
    opens nothing and is counted as suppressed. It still stands in the scored events.
    """

    def __init__(self, stream: str, route: str, per_day: float, gap: int) -> None:
        self._stream, self._route, self._gap = stream, route, gap
        self._per_day = per_day
        self._capacity = max(1.0, per_day)
        self._tokens = self._capacity
        self._filled_at: int | None = None
        self._open: dict[str, _Open] = {}
        self.opened = 0
        self.suppressed = 0

    def add(
        self,
        event_id: str,
        key: str,
        time: int,
        now: int,
        p_value: float,
        threshold: float,
        top: list[Contribution],
    ) -> tuple[str | None, list[Incident]]:
        """Take in an anomaly; return its incident, if any, and what to publish about it.

        ``now`` is the newest event time of the partition up to this window: an incident whose gap
        has passed by then is over, whether or not it has been closed yet.
        """
        messages = []
        found = self._open.get(key)
        if found is not None and now - found.last > self._gap:
            messages.append(self._message(self._open.pop(key), "closed"))
            found = None
        if found is None:
            if not self._take_token(time, p_value / max(threshold, 1e-300)):
                self.suppressed += 1
                return None, messages
            found = _Open(self._id(event_id), key, time, time, time, 1, p_value, threshold, top)
            self._open[key] = found
            self.opened += 1
            return found.incident_id, [*messages, self._message(found, "open")]
        found.events += 1
        found.last = max(found.last, time)
        worse = p_value < found.min_p
        before = _severity(found)
        if worse:
            found.min_p, found.top = p_value, top
        # a message for each doubling is enough to follow a long incident
        if found.events & (found.events - 1) == 0 or _severity(found) != before:
            messages.append(self._message(found, "updated"))
        return found.incident_id, messages

    def close_before(self, time: int) -> list[Incident]:
        """Close the incidents whose last event is more than the gap before ``time``."""
        over = [k for k, found in self._open.items() if time - found.last > self._gap]
        return [self._message(self._open.pop(key), "closed") for key in over]

    def finish(self) -> list[Incident]:
        """Close all incidents."""
        return self.close_before(2**62)

    def _take_token(self, time: int, rarity: float) -> bool:
        if self._filled_at is not None and time > self._filled_at:
            earned = (time - self._filled_at) / _DAY * self._per_day
            self._tokens = min(self._capacity, self._tokens + earned)
        self._filled_at = max(time, self._filled_at or time)
        # the emptier the bucket, the rarer an anomaly must be: the last ones go to the worst
        if self._tokens < 1.0 or rarity > self._tokens / self._capacity:
            return False
        self._tokens -= 1.0
        return True

    def _id(self, event_id: str) -> str:
        text = f"incident\0{self._stream}\0{self._route}\0{event_id}"
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _message(self, found: _Open, state: Literal["open", "updated", "closed"]) -> Incident:
        count = "1 window" if found.events == 1 else f"{found.events} windows"
        return Incident(
            incident_id=found.incident_id,
            state=state,
            severity=_severity(found),
            stream=self._stream,
            route=self._route,
            keys=[found.key] if found.key else [],
            opened_at=found.opened_at,
            first_event=found.first,
            last_event=found.last,
            events=found.events,
            min_p_value=found.min_p,
            top=found.top,
            summary=f"{self._stream} {found.key}: {sentence(found.top)}, {count}",
        )


def _severity(found: _Open) -> Literal["low", "medium", "high"]:
    ratio = found.min_p / max(found.threshold, 1e-300)
    if ratio <= 1e-3:
        return "high"
    return "medium" if ratio <= 0.05 else "low"
