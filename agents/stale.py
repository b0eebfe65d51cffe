"""Staleness: what a backlog tells of must not page anybody.

A worker that was down for hours works off records of hours ago. With ``alerts.max_age`` an incident
says whether its newest window was older than that when it was published: ``stale``. It is recorded
all the same; whoever routes alerts to people leaves out what is stale. An incident that is closed
is never stale, so that whatever was paged is also resolved.

An incident that was stale and goes on with windows that are not is told again, word for word as it
was told last but not stale, so that a page does come.

``stale`` depends on the clock, as ``processed_at`` does, and so does whether an incident is told
again. Nothing else does: what is told again says nothing new, and no state knows of the clock. So
a worker that takes a partition on does not know which incidents were stale, and tells each open one
again at its next window that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from agents.records import Ints
from agents.snapshot import State
from schemas.messages import Incident


class Staleness:
    """Marks the incidents of one route in one partition.

    Parameters
    ----------
    max_age
        Age in ns beyond which a window is old; None: none ever is.
    """

    def __init__(self, max_age: int | None) -> None:
        self._max_age = max_age
        # the open incidents as they were told last; and those among them that were not stale
        self._told: dict[str, Incident] = {}
        self._fresh: set[str] = set()

    def mark(self, incidents: Iterable[Incident], clock: Callable[[], int]) -> list[Incident]:
        """Return incidents that are about to be published, marked."""
        if self._max_age is None:
            return list(incidents)
        now = clock()
        return [self._marked(incident, now) for incident in incidents]

    def again(
        self, placed: Mapping[int, str], end: Ints, clock: Callable[[], int]
    ) -> list[Incident]:
        """Return the incidents that are to be told again.

        Parameters
        ----------
        placed
            The incident of each anomalous window, by its place among the windows.
        end
            ``[W]`` event times at which windows end, ns.
        """
        if self._max_age is None or not placed:
            return []
        now, again = clock(), []
        for index, name in placed.items():
            waits = name in self._told and name not in self._fresh
            if waits and now - int(end[index]) <= self._max_age:
                self._fresh.add(name)
                again.append(self._told[name])
        return again

    def state(self) -> State:
        """Copy the state: the open incidents, as they were told last."""
        return {"told": [msgspec.to_builtins(incident) for incident in self._told.values()]}

    def restore(self, state: State) -> None:
        """Go on from a state."""
        known = [] if self._max_age is None else state["told"]
        told = [msgspec.convert(incident, Incident) for incident in known]
        self._told = {incident.incident_id: incident for incident in told}

    def _marked(self, incident: Incident, now: int) -> Incident:
        name = incident.incident_id
        if incident.state == "closed":
            self._told.pop(name, None)
            self._fresh.discard(name)
            return incident
        self._told[name] = incident
        if self._max_age is not None and now - incident.last_event > self._max_age:
            return msgspec.structs.replace(incident, stale=True)
        self._fresh.add(name)
        return incident
