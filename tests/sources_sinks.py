"""The checks that every source and every sink must pass, and where each case comes from.

A new source or sink joins by one entry in ``SOURCES`` or ``SINKS``. A check applies to a case or is
left out for a property that the case says it lacks; it never forgives a failure.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from kafka import KafkaProducer

from connectors.base import Fetch, Output, Partition, Sink, Source
from connectors.files import FileSink, FileSource, read_messages
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from connectors.memory import MemorySink, MemorySource
from schemas.config import Kafka
from tests.kafka_support import make_topic, read

KEYS, TOMBSTONES, PARTITIONS, GAPS, TIMES = "keys", "tombstones", "partitions", "gaps", "times"


@dataclass(frozen=True)
class Place:
    """Where a case may put its data; ``kafka`` for those that need a broker."""

    path: Path
    topic: str
    kafka: Kafka | None = None

    @property
    def broker(self) -> Kafka:
        assert self.kafka is not None
        return self.kafka


@dataclass(frozen=True)
class SourceCase:
    """``make`` puts fetches into a place and opens a source there; ``keeps`` what it can keep."""

    name: str
    make: Callable[[Place, Sequence[Fetch]], Source]
    keeps: frozenset[str] = frozenset()
    needs_broker: bool = False


@dataclass(frozen=True)
class SinkCase:
    """``make`` opens a sink in a place; ``values`` reads all values back, those of a key in order.

    ``values`` gets the sink too, for sinks that keep what they took.
    """

    name: str
    make: Callable[[Place], Sink]
    values: Callable[[Place, Sink], list[bytes]]
    needs_broker: bool = False


# -- cases ------------------------------------------------------------------------------------


def _memory_source(place: Place, fetches: Sequence[Fetch]) -> Source:
    return MemorySource(fetches)


def _file_source(place: Place, fetches: Sequence[Fetch]) -> Source:
    lines = [value or b"" for fetch in fetches for value in fetch.values]
    (place.path / "in.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return FileSource(place.path / "in.jsonl", place.topic, chunk=3)


def _kafka_source(place: Place, fetches: Sequence[Fetch]) -> Source:
    make_topic(place.broker, place.topic, partitions=2)
    with KafkaProducer(bootstrap_servers=place.broker.bootstrap) as producer:
        for fetch in fetches:
            for key, value, time in zip(fetch.keys, fetch.values, fetch.timestamps, strict=True):
                number, milliseconds = fetch.partition.number, int(time) // 1_000_000
                producer.send(place.topic, value, key, None, number, milliseconds)
    return KafkaSource(place.broker, place.topic)


SOURCES = [
    SourceCase("memory", _memory_source, frozenset({KEYS, TOMBSTONES, PARTITIONS, GAPS, TIMES})),
    SourceCase("file", _file_source),
    SourceCase(
        "kafka", _kafka_source, frozenset({KEYS, TOMBSTONES, PARTITIONS, TIMES}), needs_broker=True
    ),
]


def _memory_values(place: Place, sink: Sink) -> list[bytes]:
    assert isinstance(sink, MemorySink)
    return [output.value for outputs in sink.topics.values() for output in outputs]


def _file_values(place: Place, sink: Sink) -> list[bytes]:
    return [value for chunk in read_messages(place.path / "out" / "out.jsonl") for value in chunk]


def _kafka_sink(place: Place) -> Sink:
    for suffix in ("a", "b"):
        make_topic(place.broker, f"{place.topic}.{suffix}", partitions=3)
    return KafkaSink(place.broker)


def _kafka_values(place: Place, sink: Sink) -> list[bytes]:
    fetches = [f for suffix in ("a", "b") for f in read(place.broker, f"{place.topic}.{suffix}")]
    return [value for fetch in fetches for value in fetch.values if value is not None]


SINKS = [
    SinkCase("memory", lambda place: MemorySink(), _memory_values),
    SinkCase("file", lambda place: FileSink(place.path / "out" / "out.jsonl"), _file_values),
    SinkCase("kafka", _kafka_sink, _kafka_values, needs_broker=True),
]


# -- data -------------------------------------------------------------------------------------


def sample(case: SourceCase, topic: str) -> list[Fetch]:
    """Records that use everything that the case can keep."""
    fetches = []
    for number in range(2 if PARTITIONS in case.keeps else 1):
        for part in range(3):
            step = 2 if GAPS in case.keeps else 1
            offsets = np.arange(part * 4, part * 4 + 4, dtype=np.int64) * step
            values: list[bytes | None] = [b'{"n": %d, "of": %d}' % (n, number) for n in offsets]
            some_keys = KEYS in case.keeps
            keys = [b"k%d" % (n % 3) if some_keys and n % 4 else None for n in offsets.tolist()]
            if TOMBSTONES in case.keeps:
                keys[part], values[part] = b"gone", None
            first_ms = 1_700_000_000_000 if TIMES in case.keeps else 0
            times = (first_ms + offsets * (first_ms > 0)) * 1_000_000
            fetches.append(Fetch(Partition(topic, number), offsets, times, keys, values))
    return fetches


Record = tuple[int, int, bytes | None, bytes | None]


def records(fetches: Sequence[Fetch]) -> dict[Partition, list[Record]]:
    """All records by partition, in the order they came: offset, time, key, value."""
    found: defaultdict[Partition, list[Record]] = defaultdict(list)
    for f in fetches:
        found[f.partition] += zip(
            f.offsets.tolist(), f.timestamps.tolist(), f.keys, f.values, strict=True
        )
    return dict(found)


# -- checks of sources ------------------------------------------------------------------------


def check_records_come_as_they_are(case: SourceCase, place: Place) -> None:
    given = sample(case, place.topic)
    source = case.make(place, given)
    assert records(list(source.fetches())) == records(given)
    source.close()


def check_offsets_increase(case: SourceCase, place: Place) -> None:
    source = case.make(place, sample(case, place.topic))
    for partition, rows in records(list(source.fetches())).items():
        offsets = [row[0] for row in rows]
        assert offsets == sorted(set(offsets)), partition
    source.close()


def check_columns_are_typed(case: SourceCase, place: Place) -> None:
    source = case.make(place, sample(case, place.topic))
    for fetch in source.fetches():
        assert fetch.offsets.dtype == fetch.timestamps.dtype == np.int64
        assert len(fetch) == len(fetch.offsets) == len(fetch.timestamps) == len(fetch.keys) > 0
    source.close()


def check_second_reading_is_equal(case: SourceCase, place: Place) -> None:
    source = case.make(place, sample(case, place.topic))
    first = records(list(source.fetches()))
    assert records(list(source.fetches())) == first
    source.close()


def check_reading_starts_again_after_an_unfinished_one(case: SourceCase, place: Place) -> None:
    source = case.make(place, sample(case, place.topic))
    unfinished = source.fetches()
    next(unfinished)
    again = records(list(source.fetches()))
    assert again == records(sample(case, place.topic))
    source.close()
    for _ in unfinished:
        pass


def check_close_ends_the_reading_and_may_be_repeated(case: SourceCase, place: Place) -> None:
    source = case.make(place, sample(case, place.topic))
    reading = source.fetches()
    next(reading)
    source.close()
    source.close()
    assert list(reading) == []


def check_nothing_to_read_is_no_error(case: SourceCase, place: Place) -> None:
    source = case.make(place, [])
    assert list(source.fetches()) == []
    source.close()


SOURCE_CHECKS = [
    check_records_come_as_they_are,
    check_offsets_increase,
    check_columns_are_typed,
    check_second_reading_is_equal,
    check_reading_starts_again_after_an_unfinished_one,
    check_close_ends_the_reading_and_may_be_repeated,
    check_nothing_to_read_is_no_error,
]


# -- checks of sinks --------------------------------------------------------------------------


def outputs(topic: str, first: int, count: int) -> list[Output]:
    """Messages for two topics and three keys, whose values tell both and a rising number."""
    made = []
    for n in range(first, first + count):
        name, key = f"{topic}.{'ab'[n % 2]}", f"k{n % 3}"
        value = json.dumps({"topic": name, "key": key, "n": n}).encode()
        made.append(Output(name, key.encode(), value, 1_700_000_000_000 + n))
    return made


def check_what_was_written_is_safe_before_close(case: SinkCase, place: Place) -> None:
    sink = case.make(place)
    written = outputs(place.topic, 0, 50)
    sink.write(written)
    assert sorted(case.values(place, sink)) == sorted(output.value for output in written)
    sink.close()


def check_order_of_a_key_is_kept(case: SinkCase, place: Place) -> None:
    sink = case.make(place)
    for first in range(0, 600, 100):
        sink.write(outputs(place.topic, first, 100))
    sink.close()
    numbers: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for value in case.values(place, sink):
        row = json.loads(value)
        numbers[row["topic"], row["key"]].append(row["n"])
    assert sum(map(len, numbers.values())) == 600
    for key, found in numbers.items():
        assert found == sorted(found), key


def check_writing_nothing_is_no_error(case: SinkCase, place: Place) -> None:
    sink = case.make(place)
    sink.write([])
    sink.close()
    assert case.values(place, sink) == []


def check_close_may_be_repeated(case: SinkCase, place: Place) -> None:
    sink = case.make(place)
    sink.write(outputs(place.topic, 0, 3))
    sink.close()
    sink.close()
    assert len(case.values(place, sink)) == 3


SINK_CHECKS = [
    check_what_was_written_is_safe_before_close,
    check_order_of_a_key_is_kept,
    check_writing_nothing_is_no_error,
    check_close_may_be_repeated,
]
