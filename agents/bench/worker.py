"""The whole worker over a preloaded topic: ``python -m agents.bench.worker PIPELINE N``.

Prints one line of JSON with records and seconds, from the first fetch handed over to the end of
the batch that holds the last record.
"""

from __future__ import annotations

import sys
import time
import uuid

import msgspec

from agents.serve import PipelineHandler
from connectors.base import Fetch
from connectors.kafka.handler import Batch
from connectors.kafka.worker import KafkaWorker
from connectors.storage import Storage
from schemas.config import Pipeline as Config
from schemas.parse import load_pipeline


class _Timed(PipelineHandler):
    """Notes when the first and the last record pass, and stops the worker then."""

    def __init__(self, config: Config, records: int) -> None:
        super().__init__(config, Storage(config.storage))
        self.worker: KafkaWorker
        self.first = self.last = 0.0
        self._records, self._seen = records, 0

    def process(self, fetches: list[Fetch]) -> Batch:
        self.first = self.first or time.perf_counter()
        batch = super().process(fetches)
        self._seen += sum(map(len, fetches))
        if self._seen >= self._records:
            self.last = time.perf_counter()
            self.worker.stop()
        return batch


def main(path: str, records: int) -> None:
    """Measure and print."""
    config = load_pipeline(path)
    handler = _Timed(config, records)
    topics = handler.pipeline.input_topics
    handler.worker = KafkaWorker(
        config.kafka,
        f"bench-{uuid.uuid4().hex}",
        topics,
        handler,
        batch=config.scoring.batch,
        deadline_seconds=int(config.scoring.deadline) / 1e9,
    )
    handler.worker.run()
    facts = {"records": records, "seconds": handler.last - handler.first}
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
