"""A worker that takes a large partition on: ``python -m agents.bench.restore PIPELINE COMMIT``.

The partition was committed up to an offset. Prints one line of JSON with the seconds from its
assignment until its state is restored, and until the first record beyond the commit is scored.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from functools import partial

import msgspec

from agents.bench.subject import STREAM, TOPIC
from agents.serve import PipelineHandler
from connectors.base import Fetch, Partition, flatten
from connectors.kafka.admin import identify
from connectors.kafka.allocator import give_back_large_arrays
from connectors.kafka.bench_group import commit
from connectors.kafka.collector import collect_rarely
from connectors.kafka.handler import Batch
from connectors.kafka.worker import KafkaWorker
from connectors.storage import Storage
from schemas.config import Pipeline as Config
from schemas.parse import load_pipeline

PATIENCE_SECONDS = 300.0


class _Watched(PipelineHandler):
    """Notes when it takes the partition on, when that is restored, and when it scores."""

    def __init__(self, config: Config) -> None:
        storage = Storage(config.storage)
        super().__init__(config, storage, identify=partial(identify, config.kafka))
        self.began = self.restored = self.first = 0.0
        self.scored = threading.Event()

    def assigned(
        self, committed: Mapping[Partition, int], generation: int
    ) -> Mapping[Partition, int]:
        self.began = time.perf_counter()
        starts = super().assigned(committed, generation)
        self.restored = time.perf_counter()
        return starts

    def process(self, fetches: list[Fetch]) -> Batch:
        batch = super().process(fetches)
        topic = self.pipeline.topics.scored(STREAM)
        if not self.first and any(x.topic == topic for x in flatten(batch.outputs)):
            self.first = time.perf_counter()
            self.scored.set()
        return batch


def main(path: str, committed: int) -> None:
    """Measure and print."""
    config = load_pipeline(path)
    group = f"bench-{uuid.uuid4().hex}"
    commit(config.kafka, group, Partition(TOPIC, 0), committed)
    handler = _Watched(config)
    worker = KafkaWorker(
        config.kafka,
        group,
        handler.pipeline.input_topics,
        handler,
        batch=config.scoring.batch,
        deadline_seconds=int(config.scoring.deadline) / 1e9,
    )
    collect_rarely()  # as a worker with a process of its own does
    give_back_large_arrays()
    threading.Thread(target=worker.run, kwargs={"process": False}, daemon=True).start()
    if not handler.scored.wait(PATIENCE_SECONDS):
        sys.exit(f"nothing is scored after {PATIENCE_SECONDS:.0f} s: {worker.status().reason}")
    facts = {"restore": handler.restored - handler.began, "first": handler.first - handler.began}
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    sys.stdout.flush()
    os._exit(0)  # as it is: in good order it would leave a newer checkpoint


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
