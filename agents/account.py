"""Accounts: where every record of a partition went."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from agents.snapshot import State, put_back
from connectors.base import Partition
from schemas.messages import Account


@dataclass(slots=True)
class Ledger:
    """Running counts of one partition; the five fates add up to ``records_in``."""

    first_offset: int = -1
    last_offset: int = -1
    records_in: int = 0
    windowed: int = 0
    late: int = 0
    duplicate: int = 0
    dead_letter: int = 0
    filtered: int = 0
    windows: int = 0
    scored: int = 0
    unscored: int = 0
    anomalies: int = 0
    incidents: int = 0
    suppressed: int = 0
    revisions: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every record has exactly one fate."""
        fates = self.windowed + self.late + self.duplicate + self.dead_letter + self.filtered
        return self.records_in == fates

    def message(self, stream: str, partition: Partition) -> Account:
        """Make the message to publish."""
        return Account(
            stream=stream, topic=partition.topic, partition=partition.number, **asdict(self)
        )

    def __add__(self, other: Ledger) -> Ledger:
        """Add up counts; offsets lose their meaning."""
        mine, theirs = asdict(self), asdict(other)
        total = {name: mine[name] + theirs[name] for name in mine}
        return Ledger(**{**total, "first_offset": -1, "last_offset": -1})

    def state(self) -> State:
        """Copy the counts."""
        return asdict(self)

    def restore(self, state: State) -> None:
        """Go on from counts."""
        put_back(self, asdict(self), state)


class RecentIds:
    """The last ``horizon`` record ids of a partition, to tell duplicates by."""

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon
        self._seen: dict[str, None] = {}

    def fresh(self, record_id: str | None) -> bool:
        """Remember an id; false if it was among the last ``horizon``."""
        if record_id is None:
            return True
        if record_id in self._seen:
            return False
        self._seen[record_id] = None
        if len(self._seen) > self._horizon:
            del self._seen[next(iter(self._seen))]
        return True

    def state(self) -> State:
        """Copy the state: the ids, oldest first."""
        return {"seen": list(self._seen)}

    def restore(self, state: State) -> None:
        """Go on from a state."""
        seen = state["seen"]  # of a longer horizon, if that was another one
        self._seen = dict.fromkeys(seen[max(0, len(seen) - self._horizon) :])
