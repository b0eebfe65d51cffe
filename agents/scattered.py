"""Keys on more than one partition of a stream: each has a window there, and sees a part of itself.

It is what happens when producers do not use the entity as the Kafka key, and nobody said so. No
output depends on what is found here.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from agents.residents import Residents

log = structlog.get_logger(__name__)


class Scattered:
    """Counts such keys among the partitions of one worker, as far as they are in memory."""

    def __init__(self) -> None:
        self.count = 0
        self._told: set[str] = set()

    def look(self, stream: str, keys: Residents, every: Iterable[Residents]) -> None:
        """Look for the new keys of a fetch among those of ``every`` partition of their stream.

        The first finding of a stream is told in the log.
        """
        if not keys.newcomers:
            return
        others = [other for other in every if other is not keys]
        found = [key for key in keys.newcomers if any(key in other for other in others)]
        self.count += len(found)
        if not found or stream in self._told:
            return
        self._told.add(stream)
        log.warning(
            "a key is on more than one partition, and has a window on each: let producers use the "
            "entity as the Kafka key, or set key_partitioned: false; `eddy validate --sample` "
            "shows how many keys there are",
            stream=stream,
        )
