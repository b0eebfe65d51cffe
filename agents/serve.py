"""The pipeline as a Kafka worker drives it: batches, archive, accounts, new models."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog

from agents.archiver import Archiver
from agents.checkpointer import Checkpointer
from agents.lookout import LOOK_SECONDS, Look, Lookout
from agents.monitor import Monitor
from agents.pipeline import Pipeline
from agents.publish import Envelope
from agents.recovery import Identify, Recovery
from agents.registry import Registry
from agents.tally import Tally
from connectors.base import Fetch, Output, Partition, flatten
from connectors.kafka.handler import Batch, Handler
from connectors.storage import Storage
from detectors.device import pick_device
from schemas import messages
from schemas.config import Pipeline as Config
from schemas.errors import ArtefactError, EddyError
from schemas.messages import ModelEvent

log = structlog.get_logger(__name__)

ACCOUNT_SECONDS = 5.0


class PipelineHandler(Handler):
    """Drives a :class:`Pipeline` for a worker.

    Parameters
    ----------
    config
        The pipeline file.
    storage
        Where models and the archive are.
    identify
        Asks the broker for the ids of the cluster and of topics; without it, there are no
        checkpoints.
    look
        Asks the broker where topics end; without it, no stream is watched for silence.
    clock
        Returns ns since 1970 UTC; decides about silent streams, and enters ``processed_at``,
        latencies and what is ``stale``.
    now
        Seconds on a clock that only goes forward; decides when to flush, checkpoint, look and
        report, nothing else.
    """

    def __init__(
        self,
        config: Config,
        storage: Storage,
        *,
        monitor: Monitor | None = None,
        identify: Identify | None = None,
        look: Look | None = None,
        look_seconds: float = LOOK_SECONDS,
        clock: Callable[[], int] = time.time_ns,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pipeline = Pipeline(config, clock)
        self._device = pick_device(config.scoring.device)
        self._registry = Registry(storage)
        space = self.pipeline.spill_space
        space.sweep()
        writer = ThreadPoolExecutor(1, "eddy-storage")
        self._archiver = Archiver(storage, config.streams, writer, now)
        self._checkpointer = Checkpointer(storage, config.checkpoints, writer, space, now)
        self._recovery = identify and Recovery(
            self.pipeline,
            self._registry,
            self._checkpointer,
            identify,
            device=self._device,
            rewind=config.checkpoints.rewind,
        )
        self._envelope = Envelope(self.pipeline.topics)
        self._lookout = look and Lookout(
            config, storage, self._envelope, look, clock, now, look_seconds
        )
        self._monitor = monitor
        self._now = now
        self._done: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._tally = Tally()
        self._stopping = False
        self._wanted: dict[tuple[str, str], str] = {}
        self._accounted_at = now()
        for (stream, route), model in self._registry.champions(
            list(self.pipeline.layouts), device=self._device
        ).items():
            try:
                self.pipeline.apply(stream, route, model)
            except ArtefactError as error:
                log.error(
                    "the model cannot judge these windows: they are counted as unscored, and a "
                    "new model is asked for",
                    stream=stream,
                    route=route,
                    why=str(error),
                )
            else:
                log.info("model speaks", stream=stream, route=route, model=model.model_id)

    # -- connectors.kafka.Handler -----------------------------------------------------------

    def assigned(
        self, committed: Mapping[Partition, int], generation: int
    ) -> Mapping[Partition, int]:
        """Keep the state of partitions that come back where they left, restore any other."""
        kept = {p: offset for p, offset in committed.items() if self._done.get(p) == offset}
        self.pipeline.drop_others(kept)
        self._done = dict(kept)
        self._committed = dict(committed)
        self._tally.keep(kept)
        if self._lookout is not None:
            self._lookout.begin(committed)
        if self._recovery is None:
            return {}
        starts = self._recovery.begin(committed, kept, generation)
        self._done |= starts
        self._count(committed)
        for route, model in self.pipeline.stragglers().items():
            self._wanted.setdefault(route, model.model_id)
        return starts

    def resized(self, topic: str, before: int, now: int) -> None:
        """Say what another number of partitions means for windows and budget."""
        stream = self.pipeline.stream_of(Partition(topic, 0))
        if before != now:
            log.warning(
                "keys have moved to other partitions: their windows and what was learned of them "
                "stay behind, and begin anew there; the new partitions are read from their "
                "beginning, and no record is lost",
                stream=stream,
                topic=topic,
                before=before,
                now=now,
            )
        stated = self.pipeline.config.partitions
        if before != now and topic != self.pipeline.config.streams[stream].source.topic:
            log.warning(
                "what the re-keying stage writes again of keys that have moved, should it crash "
                "now, is not known as repeated: it counts twice",
                stream=stream,
                topic=topic,
            )
        if now != stated:
            log.warning(
                "the topic has another number of partitions than the pipeline file says, by which "
                "each takes its share of budget_per_day: set `partitions` to it and restart",
                stream=stream,
                topic=topic,
                stated=stated,
                found=now,
                budget=f"{now / stated:.3g} times budget_per_day",
            )

    def expired(self, partition: Partition, first: int, end: int) -> None:
        """Count records that are gone unread."""
        if self._monitor is not None:
            self._monitor.expired(partition, end - first)

    def process(self, fetches: list[Fetch]) -> Batch:
        """Take fetches through the pipeline; publish what is new."""
        began = self._now()
        outputs: dict[Partition, list[Output]] = {}
        positions: dict[Partition, int] = {}
        fresh = fetches
        if self._recovery is not None:
            again, fresh = self._recovery.split(fetches)
            if again:
                self._take(again, positions)
            self._recovery.settle(again, fresh)
        if fresh:
            outputs = self._take(fresh, positions)
        if any(o.topic == self.pipeline.topics.retrain for o in flatten(outputs)):
            self._archiver.flush()  # what the trainer will read must be there before its request
        self._checkpoint()
        if self._now() - self._accounted_at > ACCOUNT_SECONDS:
            _add(outputs, self._accounts())
        if self._lookout is not None:
            _add(outputs, self._lookout.tick(self._done))
        self._count(positions)
        if self._monitor is not None:
            self._monitor.batch(fetches, flatten(outputs), self._now() - began)
        return Batch(outputs, positions)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Write the checkpoints that waited for this commit."""
        self._committed.update(offsets)
        if self._lookout is not None:
            self._lookout.committed(offsets)
        self._count(())
        self._checkpointer.committed(offsets)
        if self._stopping:
            self._write_checkpoints(offsets)

    def idle(self) -> Batch | None:
        """Flush what has waited long enough."""
        self._archiver.tick()
        self._checkpoint()
        outputs: dict[Partition, list[Output]] = {}
        if self._now() - self._accounted_at > ACCOUNT_SECONDS:
            outputs = self._accounts()
        if self._lookout is not None:
            _add(outputs, self._lookout.tick(self._done))
        return Batch(outputs) if outputs else None

    def wants_barrier(self) -> bool:
        """Tell whether a new model waits to speak; nothing changes before a commit again."""
        coming_back = self._recovery is not None and self._recovery.under_way
        return bool(self._wanted) and not coming_back

    def barrier(self, positions: Mapping[Partition, int]) -> Batch:
        """Let new models speak: everything before ``positions`` was judged by the old ones.

        The checkpoint that names them is on the storage before the first window that they judge.
        """
        wanted, self._wanted = self._wanted, {}
        for (stream, route), artefact_id in wanted.items():
            try:
                model = self._registry.load(stream, route, artefact_id, device=self._device)
                self.pipeline.apply(stream, route, model)
            except EddyError as error:
                log.error("model refused; the old one goes on", model=artefact_id, why=str(error))
                continue
            at = {f"{p.topic}/{p.number}": offset for p, offset in positions.items()}
            log.info("new model speaks", stream=stream, route=route, model=artefact_id, at=at)
        if self._recovery is not None:
            self._archiver.flush()
            self._committed.update(positions)
            for partition, offset in positions.items():
                snapshot = self.pipeline.snapshot(partition)
                self._checkpointer.write_patiently(partition, offset, snapshot)
        return Batch(self._accounts())

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Write out what was archived of the partitions, and their last checkpoints."""
        self._archiver.flush()
        self._write_checkpoints(partitions)

    def stop(self) -> Batch:
        """Write out the archive, the last checkpoints and accounts."""
        self._archiver.flush()
        if self._lookout is not None:
            self._lookout.stop()
        self._stopping = True
        self._write_checkpoints(list(self._done))
        return Batch(self._accounts())

    # -- state --------------------------------------------------------------------------------

    def _take(
        self, fetches: list[Fetch], positions: dict[Partition, int]
    ) -> dict[Partition, list[Output]]:
        result = self.pipeline.process(fetches)
        positions.update(result.positions)
        self._done.update(result.positions)
        self._archiver.keep(result)
        return result.outputs

    def _checkpoint(self) -> None:
        """Copy the state of a partition whose turn it is; its archived rows go first."""
        partition = None if self._recovery is None else self._checkpointer.due()
        if partition is None or partition not in self._done:
            return
        room = self._checkpointer.room(partition, self.pipeline.snapshot_bytes(partition))
        if room is None:
            return
        offset = self._done[partition]
        if self._checkpointer.behind(partition, offset):
            self._archiver.begin(partition)
        self._checkpointer.take(partition, offset, self.pipeline.snapshot(partition, room), room)
        if self._committed.get(partition) == offset:
            self._checkpointer.committed({partition: offset})

    def _write_checkpoints(self, partitions: Iterable[Partition]) -> None:
        """Checkpoint partitions that stand where their commits are, without waiting for a turn."""
        if self._recovery is None:
            return
        for partition in partitions:
            offset = self._done.get(partition)
            if offset is None or offset != self._committed.get(partition):
                continue
            if self._checkpointer.behind(partition, offset):
                try:
                    snapshot = self.pipeline.snapshot(partition)
                    self._checkpointer.write(partition, offset, snapshot)
                except EddyError as error:
                    log.error("checkpoint not written; an older one serves", why=str(error))

    def _count(self, partitions: Collection[Partition]) -> None:
        """Note the accounts of partitions that have moved, and tell those that are committed."""
        if self._monitor is None:
            return
        for account in self.pipeline.accounts() if partitions else ():
            place = Partition(account.topic, account.partition)
            back = self._recovery is None or not self._recovery.coming_back(place)
            if place in partitions and back:
                self._tally.note(place, self._done[place], account)
        self._tally.committed(self._committed)
        self._monitor.accounts = self._tally.accounts()

    # -- control ------------------------------------------------------------------------------

    def follow_models(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        """Note a model event; champions are applied at the next barrier."""
        if value is None:
            return
        try:
            event = messages.decode(value, ModelEvent)
        except msgspec.MsgspecError as error:
            log.error("model event not understood", offset=offset, why=str(error))
            return
        route = (event.stream, event.route)
        if event.stage != "champion" or route not in self.pipeline.layouts:
            return
        speaking = self.pipeline.speaking(*route)
        if speaking is None or speaking.model_id != event.artefact_id:
            self._wanted[route] = event.artefact_id
        elif route not in self.pipeline.stragglers():
            self._wanted.pop(route, None)

    def _accounts(self) -> dict[Partition, list[Output]]:
        self._accounted_at = self._now()
        if self._monitor is not None:
            self._monitor.keys(self.pipeline.keys())
        return {
            Partition(account.topic, account.partition): [self._envelope.account(account)]
            for account in self.pipeline.accounts()
        }


def _add(
    outputs: dict[Partition, list[Output]], more: Mapping[Partition, Sequence[Output]]
) -> None:
    for partition, messages_ in more.items():
        outputs.setdefault(partition, []).extend(messages_)
