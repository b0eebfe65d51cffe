"""What the Kafka tests share: topics with records, a handler that keeps notes, a running worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from connectors.base import Fetch, Output, Partition
from connectors.kafka.admin import TopicSpec, committed_offsets, ensure_topics
from connectors.kafka.handler import Batch, Handler
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from connectors.kafka.worker import KafkaWorker
from schemas.config import Kafka

DEADLINE_SECONDS = 40.0
COUNT = 20_000

committed = committed_offsets


def eventually(what: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return what()


def make_topic(config: Kafka, topic: str, partitions: int = 4, **spec: Any) -> None:
    ensure_topics(config, {topic: TopicSpec(partitions, **spec)})


def outputs(topic: str, count: int, keys: int = 50, first: int = 0) -> list[Output]:
    """Messages that tell their number; of each key the numbers rise."""
    return [
        Output(topic, f"key-{i % keys}".encode(), str(i).encode(), 1_700_000_000_000 + i)
        for i in range(first, first + count)
    ]


def fill(config: Kafka, topic: str, messages: Sequence[Output]) -> None:
    sink = KafkaSink(config)
    try:
        sink.write(messages)
    finally:
        sink.close()


def read(config: Kafka, topic: str) -> list[Fetch]:
    return list(KafkaSource(config, topic).fetches())


def values(config: Kafka, topic: str) -> list[bytes | None]:
    return [value for fetch in read(config, topic) for value in fetch.values]


class Notes(Handler):
    """A handler that notes what it is asked, and passes every record on to a topic."""

    def __init__(self, target: str | None = None) -> None:
        self.target = target
        self.seen: list[tuple[int, int]] = []
        self.fetches: list[Fetch] = []
        self.events: list[str] = []
        self.starts: list[dict[Partition, int]] = []
        self.before: Callable[[list[Fetch]], None] = lambda fetches: None
        self.threads: set[int] = set()

    def assigned(
        self, committed: Mapping[Partition, int], generation: int
    ) -> Mapping[Partition, int]:
        self.starts.append(dict(committed))
        self.events.append("assigned")
        return {}

    def process(self, fetches: list[Fetch]) -> Batch:
        self.threads.add(threading.get_ident())
        self.before(fetches)
        out: dict[Partition, list[Output]] = {}
        positions = {}
        for fetch in fetches:
            self.fetches.append(fetch)
            self.seen += [(fetch.partition.number, x) for x in fetch.offsets.tolist()]
            positions[fetch.partition] = int(fetch.offsets[-1]) + 1
            if self.target:
                pairs = zip(fetch.keys, fetch.values, strict=True)
                made = [Output(self.target, key, value or b"") for key, value in pairs]
                out.setdefault(fetch.partition, []).extend(made)
        return Batch(out, positions)

    def idle(self) -> Batch | None:
        if self.events[-1:] != ["idle"]:
            self.events.append("idle")
        return None

    def wants_barrier(self) -> bool:
        return False

    def barrier(self, positions: Mapping[Partition, int]) -> Batch:
        raise AssertionError(positions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.events.append("revoked")

    def stop(self) -> Batch:
        self.events.append("stop")
        return Batch()


class Running:
    """A worker in a thread, stopped at the end of the block."""

    def __init__(
        self, config: Kafka, group: str, topics: list[str], handler: Any, **more: Any
    ) -> None:
        self.worker = KafkaWorker(config, group, topics, handler, **more)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.worker.run(process=False)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> float:
        """Stop, and return how many seconds that took."""
        begin = time.monotonic()
        self.worker.stop()
        self._thread.join(DEADLINE_SECONDS)
        assert not self.alive, self.worker.status()
        return time.monotonic() - begin
