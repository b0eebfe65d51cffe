"""Reading the topics that a pipeline writes, as messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from agents.audit.events import EventColumns, by_partition
from agents.audit.letters import Letters
from agents.audit.report import Findings
from connectors.base import Partition
from connectors.kafka.log import LogReader
from schemas import messages
from schemas.config import Pipeline as Config
from schemas.messages import Account, DeadLetter, Incident, Message, ScoredEvent
from schemas.topics import Topics

M = TypeVar("M", bound=Message)


class Outputs:
    """Reads output topics to where they end when they are asked for.

    Attributes
    ----------
    expired
        Topics that have lost their beginnings.
    """

    def __init__(self, config: Config, log: LogReader) -> None:
        self._config, self._log = config, log
        self._topics = Topics(config.name)
        self.expired: set[str] = set()

    def accounts(self, found: Findings) -> dict[Partition, Account]:
        """Return the newest account of each partition."""
        newest = {}
        for part in self._read(self._topics.accounts, Account, found):
            for account in part:
                newest[Partition(account.topic, account.partition)] = account
        return newest

    def letters(self, found: Findings) -> dict[str, Letters]:
        """Return the dead letters of each stream."""
        streams = self._config.streams
        letters = {name: Letters(stream.source.topic) for name, stream in streams.items()}
        for part in self._read(self._topics.dead_letters, DeadLetter, found):
            for name, mine in letters.items():
                mine.add([letter for letter in part if letter.stream == name])
        for mine in letters.values():
            mine.settle()
        return letters

    def events(self, stream: str, found: Findings) -> dict[Partition, EventColumns]:
        """Return the scored events of a stream by the partition that they name."""
        columns: dict[Partition, EventColumns] = {}
        for part in self._read(self._topics.scored(stream), ScoredEvent, found):
            by_partition(part, columns)
        return columns

    def incidents(self, stream: str, found: Findings) -> int:
        """Count the incidents that follow from a stream's records, each once."""
        parts = self._read(self._topics.alerts(stream), Incident, found)
        return len({x.incident_id for part in parts for x in part if x.kind != "stream_silence"})

    def _read(self, topic: str, kind: type[M], found: Findings) -> Iterator[list[M]]:
        places = self._log.bounds(topic)
        if not places:
            found.problem("no-topic", f"there is no topic {topic!r}: create it (`eddy topics`)")
        foreign = 0
        for partition, bounds in places.items():
            if bounds.begin:
                self.expired.add(topic)
            for fetch in self._log.read(partition, bounds):
                part = []
                for value in fetch.values:
                    try:
                        part.append(messages.decode(value or b"", kind))
                    except msgspec.MsgspecError:
                        foreign += 1
                yield part
        if foreign:
            found.problem("foreign", f"{foreign:,} messages of {topic!r} are no {kind.__name__}")
