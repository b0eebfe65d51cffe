"""Incidents of silence: one for each silent key, one for many keys that fall silent together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from agents.budget import Budget
from agents.incident import KEYS_TOLD, incident_id
from agents.snapshot import State
from agents.surge import surges_within
from agents.times import shown
from schemas.config import SILENCE
from schemas.messages import Incident


@dataclass(slots=True)
class _Open:
    incident_id: str
    many: bool
    keys: dict[str, None]
    silent: dict[str, None]
    opened_at: int
    first: int
    last: int
    events: int
    told: int = 0


class Silences:
    """The open silences of one partition, opened within a budget as other incidents are.

    Keys that fall silent with the same record, or that :mod:`agents.surge` takes for a surge, make
    one incident, which ends when all of them have sent again. A silence that finds the budget spent
    opens nothing and is counted as suppressed.
    """

    def __init__(self, stream: str, per_day: float) -> None:
        self.opened = 0
        self.suppressed = 0
        self._stream = stream
        self._budget, self._surges = Budget(per_day), surges_within(per_day)
        self._open: dict[str, _Open] = {}
        self._of: dict[str, str] = {}  # the incident of each silent key

    def begin(self, since: Mapping[str, int], now: int) -> list[Incident]:
        """Take in keys that fall silent at ``now``, with the times of their last records."""
        surge = [self._surges.take(key, now, {SILENCE: 1.0}, 1.0) for key in since]
        if any(surge):
            return self._join(since, now)
        alone = ({key: last} for key, last in since.items())
        return [said for one in alone for said in self._begin(one, now, many=False)]

    def end(self, key: str, now: int) -> list[Incident]:
        """Take in that a key is silent no more."""
        found = self._open.get(self._of.pop(key, ""))
        if found is None:
            return []
        del found.silent[key]
        found.last = now
        return [] if found.silent else self._close([found])

    def finish(self) -> list[Incident]:
        """Close all incidents."""
        self._of.clear()
        return self._close(list(self._open.values()))

    @property
    def places(self) -> list[str]:
        """The open incidents."""
        return list(self._open)

    def state(self) -> State:
        """Copy the state."""
        return {
            "opened": self.opened,
            "suppressed": self.suppressed,
            "openings": self._budget.state(),
            "surges": self._surges.state(),
            "open": [msgspec.to_builtins(found) for found in self._open.values()],
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self.opened, self.suppressed = state["opened"], state["suppressed"]
        self._budget.restore(state["openings"])
        self._surges.restore(state["surges"])
        found = [msgspec.convert(one, _Open) for one in state["open"]]
        self._open = {one.incident_id: one for one in found}
        self._of = {key: one.incident_id for one in found for key in one.silent}

    def _join(self, since: Mapping[str, int], now: int) -> list[Incident]:
        """Add keys to the incident of those that fell silent before, or open it."""
        found = next((one for one in self._open.values() if one.many), None)
        if found is None:
            return self._begin(since, now, many=True)
        before = found.events
        found.events += len(since)
        found.last = now
        for key in since:
            found.keys[key] = found.silent[key] = None
            self._of[key] = found.incident_id
        # a message for each doubling is enough to follow a long incident
        doubled = found.events.bit_length() > before.bit_length()
        return [self._message(found, "updated")] if doubled else []

    def _begin(self, since: Mapping[str, int], now: int, *, many: bool) -> list[Incident]:
        if not self._budget.affords(now, 0.0):
            self.suppressed += len(since)
            return []
        key, last = next(iter(since.items()))
        name = incident_id(self._stream, SILENCE, f"{key}\0{last}")
        keys = dict.fromkeys(since)
        first = min(since.values())
        found = _Open(name, many, keys, keys.copy(), now, first, now, len(since))
        self._open[name] = found
        self._of |= dict.fromkeys(since, name)
        self.opened += 1
        return [self._message(found, "open")]

    def _close(self, ended: Iterable[_Open]) -> list[Incident]:
        return [self._message(self._open.pop(one.incident_id), "closed") for one in ended]

    def _message(self, found: _Open, state: Literal["open", "updated", "closed"]) -> Incident:
        revision, found.told = found.told, found.told + 1
        keys = list(found.keys)
        who = keys[0] if len(keys) == 1 else f"{len(keys)} keys at once"
        return Incident(
            incident_id=found.incident_id,
            kind="key_silence",
            state=state,
            severity="medium" if found.many else "low",
            stream=self._stream,
            route=SILENCE,
            keys=keys[:KEYS_TOLD],
            key_count=len(keys),
            opened_at=found.opened_at,
            first_event=found.first,
            last_event=found.last,
            revision=revision,
            events=found.events,
            min_p_value=1.0,
            top=[],
            summary=f"{self._stream} {who}: silent since {shown(found.first)}",
        )
