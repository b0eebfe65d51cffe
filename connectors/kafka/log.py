"""Reading the log as it is, partition by partition, with a client that the worker does not use.

What a worker claims is checked by this reader: kafka-python shares no code with aiokafka.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import UnsupportedCodecError

from connectors.base import Fetch, Partition
from connectors.kafka.admin import errors_told, topic_partitions
from connectors.kafka.client import kafka_python_settings
from connectors.kafka.records import to_fetch
from schemas.config import Kafka
from schemas.errors import SetupError

__all__ = ["Bounds", "LogReader"]

POLL_MS = 500
FETCH_RECORDS = 10_000
PARTITION_BYTES = 8 << 20

# Without a record for so long, while the log is known to hold more, the broker counts as gone.
STALL_SECONDS = 60.0


class Bounds(NamedTuple):
    """Where a log begins, and the offset of the record that will come next."""

    begin: int
    end: int


class LogReader:
    """Reads what is committed, outside any group.

    Parameters
    ----------
    config
        The connection.

    Raises
    ------
    SetupError
        Here and by all methods, if the broker cannot be reached, or refuses.
    """

    def __init__(self, config: Kafka) -> None:
        self._config = config
        with errors_told(config):
            self._consumer = KafkaConsumer(
                **kafka_python_settings(config),
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                max_poll_records=FETCH_RECORDS,
                max_partition_fetch_bytes=PARTITION_BYTES,
            )

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *details: object) -> None:
        self._consumer.close()

    def bounds(self, topic: str) -> Mapping[Partition, Bounds]:
        """Return where each partition of a topic begins and ends; none of one that there is not."""
        count = topic_partitions(self._config, topic) or 0
        places = [TopicPartition(topic, number) for number in range(count)]
        if not places:
            return {}
        with errors_told(self._config):
            ends = self._consumer.end_offsets(places)
            begins = self._consumer.beginning_offsets(places)
        return {Partition(*place): Bounds(begins[place], ends[place]) for place in places}

    def read(self, partition: Partition, bounds: Bounds) -> Iterator[Fetch]:
        """Yield the records within bounds that are still there, in order."""
        place, moved = TopicPartition(*partition), time.monotonic()
        consumer = self._consumer
        with errors_told(self._config):
            consumer.assign([place])
            consumer.seek(place, bounds.begin)
            while consumer.position(place) < bounds.end:
                records = self._poll(place)
                if records:
                    moved = time.monotonic()
                elif time.monotonic() - moved > STALL_SECONDS:
                    where = f"{self._config.bootstrap} has sent nothing of {partition.topic!r}"
                    raise SetupError(where + " for a minute")
                records = [record for record in records if record.offset < bounds.end]
                if records:
                    yield to_fetch(partition, records)

    def _poll(self, place: TopicPartition) -> list[Any]:
        try:
            return self._consumer.poll(POLL_MS).get(place, [])  # type: ignore[no-any-return]
        except UnsupportedCodecError as error:
            msg = (
                f"{place.topic} is compressed in a way that this reader does not know ({error}): "
                "install 'lz4' or 'python-snappy' beside Eddy, whichever it is"
            )
            raise SetupError(msg) from error
