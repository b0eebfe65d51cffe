"""The whole worker over a preloaded topic: ``python -m agents.bench.worker PIPELINE N [bare]``.

Prints one line of JSON with records and seconds, from the first fetch handed over until all that
came of the last record is acknowledged by the broker. A ``bare`` worker guarantees nothing: it
takes no checkpoints, and commits what it has processed while the outputs are on their way.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from functools import partial

import msgspec

from agents.serve import PipelineHandler
from connectors.base import Fetch, Partition
from connectors.kafka.admin import identify
from connectors.kafka.allocator import give_back_large_arrays
from connectors.kafka.collector import collect_rarely
from connectors.kafka.delivery import AtLeastOnce
from connectors.kafka.handler import Batch
from connectors.kafka.publisher import Publisher
from connectors.kafka.worker import KafkaWorker
from connectors.storage import Storage
from schemas.config import Pipeline as Config
from schemas.parse import load_pipeline

POLL_SECONDS = 0.002
UNDER_WAY = 8  # batches


class _Timed(PipelineHandler):
    """Notes when the first record passes, and that all have passed."""

    def __init__(self, config: Config, records: int, *, checkpoints: bool) -> None:
        storage = Storage(config.storage)
        ask = partial(identify, config.kafka) if checkpoints else None
        super().__init__(config, storage, identify=ask)
        self.first = 0.0
        self.passed = threading.Event()
        self._left = records

    def process(self, fetches: list[Fetch]) -> Batch:
        self.first = self.first or time.perf_counter()
        batch = super().process(fetches)
        self._left -= sum(map(len, fetches))
        if self._left <= 0:
            self.passed.set()
        return batch


class _Unawaited(AtLeastOnce):
    """Takes outputs for delivered as soon as they are handed to the publisher."""

    def __init__(self, publisher: Publisher) -> None:
        super().__init__(publisher)
        self._under_way: set[asyncio.Task[Mapping[Partition, int]]] = set()

    @property
    def busy(self) -> bool:
        """Whether something is not acknowledged yet."""
        return bool(self._under_way)

    async def deliver(self, batch: Batch) -> Mapping[Partition, int]:
        while len(self._under_way) >= UNDER_WAY:  # memory has its bounds here too
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(super().deliver(batch))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return {}


def main(path: str, records: int, *, bare: bool = False) -> None:
    """Measure and print."""
    config = load_pipeline(path)
    handler = _Timed(config, records, checkpoints=not bare)
    unawaited = _Unawaited(Publisher(config.kafka)) if bare else None
    worker = KafkaWorker(
        config.kafka,
        f"bench-{uuid.uuid4().hex}",
        handler.pipeline.input_topics,
        handler,
        batch=config.scoring.batch,
        deadline_seconds=int(config.scoring.deadline) / 1e9,
        exactly_once=config.delivery == "exactly_once",
        delivery=unawaited,
    )
    collect_rarely()  # as a worker with a process of its own does
    give_back_large_arrays()
    runner = threading.Thread(target=worker.run, kwargs={"process": False})
    runner.start()
    handler.passed.wait()
    while any(worker.status().lag.values()):  # behind by what is not acknowledged
        time.sleep(POLL_SECONDS)
    while unawaited is not None and unawaited.busy:
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - handler.first
    worker.stop()
    runner.join()
    facts = {"records": records, "seconds": seconds}
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), bare="bare" in sys.argv[3:])
