"""Coming back: partitions go on from their checkpoints, publishing nothing twice.

A partition that is taken on begins at its newest usable checkpoint at or below the commit. The
records from there to the commit are processed again to bring the state up to the commit; what they
lead to has been published before, and is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import structlog

from agents.checkpointer import Checkpointer
from agents.patience import patiently
from agents.pipeline import Pipeline
from agents.registry import Registry
from agents.snapshot import State
from connectors.base import Fetch, Partition
from connectors.kafka.admin import Identity
from detectors.model import Model
from schemas.errors import ArtefactError, DataError

log = structlog.get_logger(__name__)

Identify = Callable[[Iterable[str]], Identity]


class Recovery:
    """Restores partitions; all methods are called in the handler's thread.

    Parameters
    ----------
    pipeline
        Whose partitions they are.
    registry, device
        Where the models are that a checkpoint names, and where they shall compute.
    checkpointer
        Where checkpoints are found and written.
    identify
        Asks the broker for the ids of the cluster and of topics.
    rewind
        Records before the commit to read again where there is no checkpoint.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        registry: Registry,
        checkpointer: Checkpointer,
        identify: Identify,
        *,
        device: str,
        rewind: int,
    ) -> None:
        self._pipeline, self._registry, self._device = pipeline, registry, device
        self._checkpointer, self._identify, self._rewind = checkpointer, identify, rewind
        self._until: dict[Partition, int] = {}  # the commits of partitions that are coming back
        self._bare: set[Partition] = set()  # those of them that have no checkpoint …
        self._changed: set[Partition] = set()  # … or one of another pipeline file
        self._models: dict[str, Model] = {}

    def begin(
        self, committed: Mapping[Partition, int], kept: Mapping[Partition, int], generation: int
    ) -> dict[Partition, int]:
        """Take on partitions; return where to begin with those that are not ``kept`` in memory.

        Raises
        ------
        SetupError
            If the broker or the storage cannot be reached.
        """
        identity = self._identify({partition.topic for partition in committed})
        places = {x: identity.topic_ids[x.topic] for x in committed}
        self._checkpointer.begin(identity.cluster_id, places, generation)
        self._until.clear()
        self._bare.clear()
        self._changed.clear()
        starts = {}
        for partition, offset in sorted(committed.items()):
            if partition not in kept:
                starts[partition] = self._restore(partition, offset)
        self._models.clear()
        return starts

    @property
    def under_way(self) -> bool:
        """Whether a partition is not back at its commit yet."""
        return bool(self._until)

    def coming_back(self, partition: Partition) -> bool:
        """Tell whether a partition is not back at its commit yet."""
        return partition in self._until

    def split(self, fetches: Sequence[Fetch]) -> tuple[list[Fetch], list[Fetch]]:
        """Tell records that lie before the commit, and are processed again, from new ones."""
        if not self._until:
            return [], list(fetches)
        again, fresh = [], []
        for fetch in fetches:
            until = self._until.get(fetch.partition, -1)
            known = int(np.searchsorted(fetch.offsets, until))
            if known:
                again.append(fetch[:known])
            if known < len(fetch):
                fresh.append(fetch[known:])
        return again, fresh

    def settle(self, again: Sequence[Fetch], fresh: Sequence[Fetch]) -> None:
        """Between the two: note which partitions are back at their commits.

        One without a checkpoint gets its first, and counts its records from here on.
        """
        reached = {fetch.partition: int(fetch.offsets[-1]) + 1 for fetch in again}
        beyond = {fetch.partition for fetch in fresh}
        for partition, until in list(self._until.items()):
            if partition not in beyond and reached.get(partition, -1) < until:
                continue
            del self._until[partition]
            if partition in self._bare:
                patiently(partial(self._first_checkpoint, partition, until), "first checkpoint")
            elif partition in self._changed:
                patiently(partial(self._write, partition, until), "checkpoint of what is changed")
            log.info("back where it was", topic=partition.topic, partition=partition.number)

    def _restore(self, partition: Partition, committed: int) -> int:
        """Restore the best checkpoint there is; return the offset at which to begin."""
        for offset, state in self._checkpointer.found(partition, committed):
            try:
                anew = self._pipeline.restore(partition, state, self._named(partition, state))
            except (ArtefactError, DataError) as error:
                log.error("checkpoint passed over", offset=offset, why=str(error))
                continue
            if offset < committed:
                self._until[partition] = committed
            if anew:
                log.warning(
                    "the pipeline file says something else of these detectors: they begin anew, "
                    "the windows stay",
                    topic=partition.topic,
                    partition=partition.number,
                    detectors=sorted(anew),
                )
                if offset < committed:
                    self._changed.add(partition)
                else:
                    self._write(partition, committed)
            log.info(
                "going on from a checkpoint",
                topic=partition.topic,
                partition=partition.number,
                offset=offset,
                committed=committed,
            )
            return offset
        start = max(0, committed - self._rewind)
        if committed:
            log.warning(
                "no checkpoint to go on from: the last records before the commit are read again "
                "to fill the windows; calibration, incidents and accounts begin anew",
                topic=partition.topic,
                partition=partition.number,
                start=start,
                committed=committed,
            )
        self._bare.add(partition)
        if start < committed:
            self._until[partition] = committed
        else:
            self._first_checkpoint(partition, committed)
        return start

    def _first_checkpoint(self, partition: Partition, offset: int) -> None:
        """Note the models by which the first outputs are made, before there are any."""
        self._pipeline.restart_account(partition)
        self._write(partition, offset)
        self._bare.discard(partition)

    def _write(self, partition: Partition, offset: int) -> None:
        self._checkpointer.write(partition, offset, self._pipeline.snapshot(partition))
        self._changed.discard(partition)

    def _named(self, partition: Partition, state: State) -> dict[str, Model]:
        """Load the models that a checkpoint names, each once."""
        stream, models = self._pipeline.stream_of(partition), {}
        for route, artefact_id in state["models"].items():
            if (stream, route) not in self._pipeline.layouts:
                continue  # a route that there was
            model = self._models.get(artefact_id) or self._pipeline.speaking(stream, route)
            if model is None or model.model_id != artefact_id:
                model = self._registry.load(stream, route, artefact_id, device=self._device)
            self._models[artefact_id] = models[route] = model
        return models
