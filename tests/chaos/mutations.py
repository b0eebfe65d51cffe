"""Workers with a deliberate mistake: the suite is worth something only if it notices each.

``python -m tests.chaos.mutations NAME run PIPELINE --port 0`` is ``eddy run`` with the mistake.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any

from agents.cli import main
from agents.decide import Decider
from agents.recovery import Recovery
from agents.serve import PipelineHandler
from connectors.base import Partition
from connectors.kafka import worker
from connectors.kafka.delivery import AtLeastOnce
from connectors.kafka.drive import Drive
from connectors.kafka.handler import Batch
from connectors.kafka.publisher import Publisher
from schemas.config import Kafka

SLOW_PUBLISH_SECONDS = 0.3


def commit_before_publish() -> None:
    """Commit a batch, and then publish it over a slow line."""

    async def deliver(
        self: Drive, before: asyncio.Task[None] | None, epoch: int, batch: Batch
    ) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            if self.failure is None and epoch == self.epoch:
                for partition, position in batch.positions.items():
                    self._ledger.done(partition, position)
                await self._commits.commit()
                if batch.outputs:
                    await asyncio.sleep(SLOW_PUBLISH_SECONDS)
                    await self._delivery.deliver(batch)
        except Exception as error:
            self.fail(error)
        finally:
            self._slots.release()
            self.progress.set()

    Drive._deliver = deliver  # type: ignore[method-assign]


def no_restore() -> None:
    """Begin every partition at its commit, with no state."""

    def restore(self: Recovery, partition: Partition, committed: int) -> int:
        return committed

    Recovery._restore = restore  # type: ignore[method-assign]


def suppress_one_too_many() -> None:
    """Take the first record after the commit for one whose outputs are published."""
    right = Recovery.begin

    def begin(
        self: Recovery,
        committed: Mapping[Partition, int],
        kept: Mapping[Partition, int],
        generation: int,
    ) -> dict[Partition, int]:
        starts = right(self, committed, kept, generation)
        self._until |= {partition: committed[partition] + 1 for partition in starts}
        return starts

    Recovery.begin = begin  # type: ignore[method-assign]


def calibrate_per_batch() -> None:
    """End a block of calibration with every batch, not after so many windows."""
    right = Decider.__call__

    def judge(self: Decider, *arguments: Any) -> Any:
        verdicts = right(self, *arguments)
        self._in_block = 0
        self._full.end_block()
        if self._partial is not self._full:
            self._partial.end_block()
        return verdicts

    Decider.__call__ = judge  # type: ignore[method-assign, assignment]


def swap_without_barrier() -> None:
    """Let a new model speak at once: nothing is drained, committed or noted in a checkpoint."""
    right = PipelineHandler.follow_models

    def follow(self: PipelineHandler, key: bytes | None, value: bytes | None, offset: int) -> None:
        right(self, key, value, offset)
        wanted, self._wanted = self._wanted, {}
        for (stream, route), artefact_id in wanted.items():
            self.pipeline.apply(stream, route, self._registry.load(stream, route, artefact_id))

    PipelineHandler.follow_models = follow  # type: ignore[method-assign]


def without_transactions() -> None:
    """Promise exactly once, and publish first and commit afterwards."""

    def plain(config: Kafka, *others: object) -> AtLeastOnce:
        return AtLeastOnce(Publisher(config))

    worker.Transactions = plain  # type: ignore[assignment, attr-defined]


MUTATIONS: dict[str, Callable[[], None]] = {
    "commit_before_publish": commit_before_publish,
    "no_restore": no_restore,
    "suppress_one_too_many": suppress_one_too_many,
    "calibrate_per_batch": calibrate_per_batch,
    "swap_without_barrier": swap_without_barrier,
    "without_transactions": without_transactions,
}

if __name__ == "__main__":
    MUTATIONS[sys.argv.pop(1)]()
    main()
