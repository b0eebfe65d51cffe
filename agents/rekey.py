"""The stage before the pipeline, for topics whose Kafka key is not the entity key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from agents.decode import Decoder
from connectors.base import Fetch, Partition
from connectors.kafka.handler import Batch, Handler
from connectors.kafka.rekey import Rekeyer
from schemas.config import Pipeline as Config
from schemas.topics import Topics


class RekeyHandler(Handler):
    """Rewrites the records of one stream by entity key.

    Parameters
    ----------
    config, stream
        The pipeline file, and the stream.
    exhausted
        Tells which partitions have been read to their end.
    """

    def __init__(
        self, config: Config, stream: str, exhausted: Callable[[], Collection[Partition]]
    ) -> None:
        decoder = Decoder(stream, config.streams[stream], config.limits)

        def keys_of(fetch: Fetch) -> list[bytes | None]:
            return [key.encode() if key else None for key in decoder.keys(fetch)]

        keyed, longest = Topics(config.name).keyed(stream), config.limits.message_bytes
        self._rekeyer = Rekeyer(keyed, keys_of, longest)
        self._exhausted = exhausted

    def assigned(
        self, committed: Mapping[Partition, int], generation: int
    ) -> Mapping[Partition, int]:
        """Begin at the commit: what was held back was not committed and is read again."""
        self._rekeyer.revoke(committed)
        self._rekeyer.assign(committed)
        return {}

    def process(self, fetches: list[Fetch]) -> Batch:
        """Merge by time and write on under the entity key."""
        return self._rekeyer.add(fetches, self._exhausted())

    def idle(self) -> Batch | None:
        """Let go what waited for a partition that turned out to be at its end."""
        return self._rekeyer.add([], self._exhausted()) if self._rekeyer.held else None

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Forget what is held back; its next owner reads it again."""
        self._rekeyer.revoke(partitions)
