"""The whole worker over a preloaded topic: ``python -m agents.bench.worker PIPELINE N``.

Prints one line of JSON with records and seconds, from the first fetch handed over until all that
came of the last record is acknowledged by the broker.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from functools import partial

import msgspec

from agents.serve import PipelineHandler
from connectors.base import Fetch
from connectors.kafka.admin import identify
from connectors.kafka.allocator import give_back_large_arrays
from connectors.kafka.collector import collect_rarely
from connectors.kafka.handler import Batch
from connectors.kafka.worker import KafkaWorker
from connectors.storage import Storage
from schemas.config import Pipeline as Config
from schemas.parse import load_pipeline

POLL_SECONDS = 0.002


class _Timed(PipelineHandler):
    """Notes when the first record passes, and that all have passed."""

    def __init__(self, config: Config, records: int) -> None:
        storage = Storage(config.storage)
        super().__init__(config, storage, identify=partial(identify, config.kafka))
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


def main(path: str, records: int) -> None:
    """Measure and print."""
    config = load_pipeline(path)
    handler = _Timed(config, records)
    worker = KafkaWorker(
        config.kafka,
        f"bench-{uuid.uuid4().hex}",
        handler.pipeline.input_topics,
        handler,
        batch=config.scoring.batch,
        deadline_seconds=int(config.scoring.deadline) / 1e9,
        exactly_once=config.delivery == "exactly_once",
    )
    collect_rarely()  # as a worker with a process of its own does
    give_back_large_arrays()
    runner = threading.Thread(target=worker.run, kwargs={"process": False})
    runner.start()
    handler.passed.wait()
    while any(worker.status().lag.values()):  # behind by what is not acknowledged
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - handler.first
    worker.stop()
    runner.join()
    facts = {"records": records, "seconds": seconds}
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
