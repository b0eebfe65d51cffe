"""Whether the newest records of a topic fit a pipeline file."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec

from agents.decode import Decoder
from connectors.kafka.admin import end_offsets
from connectors.kafka.source import KafkaSource
from schemas.config import Pipeline as Config

EXAMPLES = 5


class Sample(msgspec.Struct, frozen=True):
    """A look at the newest records of a stream.

    Attributes
    ----------
    records, keys
        How many were looked at, dead letters included, and how many entities they are of.
    dead_letters
        How many could not be used, by reason.
    scattered
        Entities that were found on more than one partition; ``examples`` are some of them. Such an
        entity has a window on each, and each sees a part of it.
    """

    stream: str
    records: int
    keys: int
    dead_letters: dict[str, int]
    scattered: int
    examples: list[str]

    @property
    def warning(self) -> str | None:
        """What is wrong about the partitions of keys, and the way out."""
        if not self.scattered:
            return None
        return (
            f"streams.{self.stream}.key_partitioned: {self.scattered} of {self.keys} keys of the "
            f"sample are on more than one partition, such as {', '.join(self.examples)}; set "
            "key_partitioned: false, or let producers use the entity as the Kafka key"
        )


def sample_stream(config: Config, name: str, per_partition: int) -> Sample:
    """Look at the newest ``per_partition`` records of each partition of a stream's topic.

    Raises
    ------
    SetupError
        If there is no such topic, or no broker.
    """
    stream = config.streams[name]
    ends = end_offsets(config.kafka, stream.source.topic)
    since = {place.number: max(0, end - per_partition) for place, end in ends.items()}
    source = KafkaSource(config.kafka, stream.source.topic, since)
    decoder = Decoder(name, stream, config.limits)
    places: defaultdict[str, set[int]] = defaultdict(set)
    reasons: Counter[str] = Counter()
    records = 0
    for fetch in source.fetches():
        decoded = decoder(fetch)
        records += decoded.records_in
        reasons.update(letter.reason for letter in decoded.dead_letters)
        for key in set(decoded.records.key):
            places[key].add(fetch.partition.number)
    judged = stream.key_partitioned and stream.key != "none"
    scattered = [key for key, on in places.items() if judged and len(on) > 1]
    return Sample(name, records, len(places), dict(reasons), len(scattered), scattered[:EXAMPLES])
