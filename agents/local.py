"""The whole loop in one process without Kafka: pipeline, trainer and what passes between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.serve import PipelineHandler
from agents.train import Trainer
from connectors.base import Fetch, Output, Partition, flatten
from connectors.memory import MemorySink
from connectors.storage import Storage
from schemas.config import Pipeline as Config


class LocalRuntime:
    """Feeds fetches to the pipeline and answers its retraining requests at once.

    Attributes
    ----------
    sink
        Everything that would have been published, by topic.
    """

    def __init__(self, config: Config, storage: Storage) -> None:
        self.handler = PipelineHandler(config, storage)
        self.trainer = Trainer(config, storage)
        self.sink = MemorySink()
        self._topics = self.handler.pipeline.topics
        self._positions: dict[Partition, int] = {}
        self._offset = 0

    def feed(self, fetches: list[Fetch]) -> None:
        """Process fetches; a new model that they lead to speaks from the next call on."""
        batch = self.handler.process(fetches)
        self._positions.update(batch.positions)
        self._publish(flatten(batch.outputs))
        if self.handler.wants_barrier():
            self._publish(flatten(self.handler.barrier(self._positions).outputs))

    def finish(self) -> None:
        """Close windows and incidents, and write the last accounts."""
        self._publish(flatten(self.handler.pipeline.finish().outputs))
        self._publish(flatten(self.handler.stop().outputs))

    def _publish(self, outputs: Sequence[Output]) -> None:
        self.sink.write(outputs)
        for output in outputs:
            if output.topic == self._topics.retrain:
                self._publish(flatten(self.trainer.process([self._request(output)]).outputs))
            elif output.topic == self._topics.models:
                self._offset += 1
                self.handler.follow_models(output.key, output.value, self._offset)

    def _request(self, output: Output) -> Fetch:
        self._offset += 1
        offset = np.array([self._offset])
        return Fetch(Partition(output.topic, 0), offset, offset * 0, [output.key], [output.value])
