"""The pipeline as a Kafka worker drives it: batches, archive, accounts, new models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from agents.archiver import Archiver
from agents.monitor import Monitor
from agents.pipeline import Pipeline
from agents.publish import Envelope
from agents.registry import Registry
from connectors.base import Fetch, Output, Partition
from connectors.kafka.handler import Batch
from connectors.storage import Storage
from detectors.device import pick_device
from schemas import messages
from schemas.config import Pipeline as Config
from schemas.errors import EddyError
from schemas.messages import ModelEvent

log = structlog.get_logger(__name__)

ACCOUNT_SECONDS = 5.0


class PipelineHandler:
    """Drives a :class:`Pipeline` for a worker; implements ``connectors.kafka.Handler``.

    Parameters
    ----------
    config
        The pipeline file.
    storage
        Where models and the archive are.
    now
        Seconds on a clock that only goes forward; decides when to flush and report, nothing else.
    """

    def __init__(
        self,
        config: Config,
        storage: Storage,
        *,
        monitor: Monitor | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pipeline = Pipeline(config, time.time_ns)
        self._device = pick_device(config.scoring.device)
        self._registry = Registry(storage)
        self._archiver = Archiver(storage, config.streams, now)
        self._envelope = Envelope(self.pipeline.topics)
        self._monitor = monitor
        self._now = now
        self._done: dict[Partition, int] = {}
        self._wanted: dict[tuple[str, str], str] = {}
        self._accounted_at = now()
        for (stream, route), model in self._registry.champions(
            list(self.pipeline.layouts), device=self._device
        ).items():
            self.pipeline.apply(stream, route, model)
            log.info("model speaks", stream=stream, route=route, model=model.model_id)

    # -- connectors.kafka.Handler -----------------------------------------------------------

    def assigned(self, committed: Mapping[Partition, int]) -> Mapping[Partition, int]:
        """Keep the state of partitions that come back where they left, drop any other."""
        stale = [p for p, offset in committed.items() if self._done.get(p) != offset]
        self.pipeline.drop(stale)
        for partition in stale:
            self._done.pop(partition, None)
        return {}

    def process(self, fetches: list[Fetch]) -> Batch:
        """Take fetches through the pipeline."""
        began = self._now()
        result = self.pipeline.process(fetches)
        self._done.update(result.positions)
        self._archiver.keep(result)
        if any(o.topic == self.pipeline.topics.retrain for o in result.outputs):
            self._archiver.flush()  # what the trainer will read must be there before its request
        outputs = list(result.outputs)
        if self._now() - self._accounted_at > ACCOUNT_SECONDS:
            outputs += self._accounts()
        if self._monitor is not None:
            self._monitor.batch(fetches, outputs, self._now() - began)
        return Batch(outputs, result.positions)

    def idle(self) -> Batch | None:
        """Flush what has waited long enough."""
        self._archiver.tick()
        if self._now() - self._accounted_at > ACCOUNT_SECONDS:
            return Batch(self._accounts())
        return None

    def wants_barrier(self) -> bool:
        """Tell whether a new model waits to speak."""
        return bool(self._wanted)

    def barrier(self, positions: Mapping[Partition, int]) -> Batch:
        """Let new models speak: everything before ``positions`` was judged by the old ones."""
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
        return Batch(self._accounts())

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Write out what was archived of the partitions."""
        self._archiver.flush()

    def stop(self) -> Batch:
        """Write out the archive and the last accounts."""
        self._archiver.flush()
        return Batch(self._accounts())

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
        if self.pipeline.model_id(*route) != event.artefact_id:
            self._wanted[route] = event.artefact_id
        else:
            self._wanted.pop(route, None)

    def _accounts(self) -> list[Output]:
        self._accounted_at = self._now()
        return [self._envelope.account(account) for account in self.pipeline.accounts()]
