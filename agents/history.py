"""History, from files or a topic, as the fetches that a worker would have got."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.decode import Decoder
from agents.rekey import RekeyHandler
from connectors.base import Fetch, Partition
from connectors.files import read_messages
from connectors.kafka.source import KafkaSource
from connectors.partitioner import partitions_of
from schemas.config import Limits, Stream
from schemas.config import Pipeline as Config
from schemas.topics import Topics

NS_PER_MS = 1_000_000


def file_fetches(
    decoder: Decoder,
    stream: Stream,
    topic: str,
    paths: Sequence[str | Path],
    *,
    partitions: int,
    limits: Limits,
) -> Iterator[list[Fetch]]:
    """Read files and assign their records to partitions as Kafka's default partitioner does.

    Yields
    ------
    list[Fetch]
        At most one fetch of each partition; offsets count the records of a partition. Records
        without a key, and those of streams without keys, go round the partitions in turn.
    """
    offsets = [0] * partitions
    total = 0
    for messages in read_messages(paths, max_bytes=limits.message_bytes):
        yield _assign(decoder, stream, topic, messages, offsets, total)
        total += len(messages)


def _assign(
    decoder: Decoder,
    stream: Stream,
    topic: str,
    messages: list[bytes],
    offsets: list[int],
    total: int,
) -> list[Fetch]:
    count = len(messages)
    fetch = Fetch(
        Partition(topic, 0),
        np.arange(total, total + count),
        np.zeros(count, dtype=np.int64),
        [None] * count,
        messages,
    )
    numbers = (np.arange(total, total + count)) % len(offsets)
    if stream.key != "none":
        keys = decoder.keys(fetch)
        keyed = np.array([bool(key) for key in keys], dtype=bool)
        encoded = [key.encode() for key in keys if key]
        numbers[keyed] = partitions_of(encoded, len(offsets))
    return deal(topic, messages, [None] * count, numbers, offsets)


def deal(
    topic: str,
    values: Sequence[bytes],
    keys: Sequence[bytes | None],
    numbers: NDArray[np.int64],
    offsets: list[int],
) -> list[Fetch]:
    """Make a fetch for each partition of ``numbers`` ``[n]``; ``offsets`` are moved on."""
    fetches = []
    for number in range(len(offsets)):
        index = np.flatnonzero(numbers == number)
        if not len(index):
            continue
        first = offsets[number]
        offsets[number] += len(index)
        fetches.append(
            Fetch(
                Partition(topic, number),
                np.arange(first, first + len(index)),
                np.zeros(len(index), dtype=np.int64),
                [keys[i] for i in index.tolist()],
                [values[i] for i in index.tolist()],
            )
        )
    return fetches


def topic_fetches(
    config: Config, name: str, since: int | None = None, until: int | None = None
) -> Iterator[list[Fetch]]:
    """Read the topic of a stream, those of a keyless one together and dealt out by entity.

    Parameters
    ----------
    since, until
        Times of the log, ns since 1970 UTC; ``until`` is excluded.
    """
    stream = config.streams[name]
    source = KafkaSource(config.kafka, stream.source.topic, since, until)
    try:
        if stream.key_partitioned:
            for fetch in source.fetches():
                yield [fetch]
        else:
            yield _by_entity(config, name, list(source.fetches()))
    finally:
        source.close()


def _by_entity(config: Config, name: str, fetches: list[Fetch]) -> list[Fetch]:
    """Do what the re-keying stage does, all at once."""
    partitions = sorted({fetch.partition for fetch in fetches})
    stage = RekeyHandler(config, name, lambda: partitions)
    stage.assigned(dict.fromkeys(partitions, 0), 0)
    rows = stage.process(fetches).merged
    numbers = partitions_of([row.key or b"" for row in rows], config.partitions)
    topic, dealt = Topics(config.name).keyed(name), []
    for number in range(config.partitions):
        mine = [rows[i] for i in np.flatnonzero(numbers == number).tolist()]
        stamps = np.array([row.timestamp_ms or 0 for row in mine], dtype=np.int64)
        dealt.append(
            Fetch(
                Partition(topic, number),
                np.arange(len(mine)),
                stamps * NS_PER_MS,
                [row.key for row in mine],
                [row.value for row in mine],
            )
        )
    return dealt
