"""The trainer: retraining requests in, new models out."""

from __future__ import annotations

import time

import msgspec
import structlog

from agents.archiving import (
    Quarantine,
    archived_records,
    quarantine_archive,
    record_archive,
)
from agents.fitting import build_history, fit_route, update_route
from agents.layout import route_layout
from agents.registry import Registry
from connectors.base import Fetch, Output, Partition
from connectors.kafka.handler import Batch, Handler
from connectors.storage import Storage
from detectors import Budget
from detectors.device import pick_device
from detectors.model import Model
from schemas import messages
from schemas.config import Pipeline as Config
from schemas.errors import ArtefactError, EddyError
from schemas.messages import ModelEvent, RetrainRequest, Stage
from schemas.topics import Topics

log = structlog.get_logger(__name__)

RECORDS = 300_000
"""Newest archived records that a model is trained on."""


class Trainer(Handler):
    """Trains from the archive; handles the topic of requests.

    A request for a model that has been replaced meanwhile asks for nothing more, so that repeated
    requests, and the same one from several partitions, lead to one model. Its answer is published
    each time: a trainer may have died between making a model the champion and saying so.
    """

    def __init__(
        self, config: Config, storage: Storage, *, budget: Budget | None = None, seed: int = 0
    ) -> None:
        self._config = config
        self._topics = Topics(config.name)
        self._storage = storage
        self._registry = Registry(storage)
        self._device = pick_device(config.scoring.device)
        self._budget = budget or Budget(seconds=600.0)
        self._seed = seed
        self._layouts = {
            (name, route.label): route_layout(name, stream, route)
            for name, stream in config.streams.items()
            for route in stream.routes
        }

    def process(self, fetches: list[Fetch]) -> Batch:
        """Train for each request."""
        outputs: dict[Partition, list[Output]] = {}
        positions = {}
        for fetch in fetches:
            values = [value for value in fetch.values if value is not None]
            answers = [answer for value in values for answer in self._answer(value)]
            outputs.setdefault(fetch.partition, []).extend(answers)
            positions[fetch.partition] = int(fetch.offsets[-1]) + 1
        return Batch(outputs, positions)

    def _answer(self, value: bytes) -> list[Output]:
        try:
            request = messages.decode(value, RetrainRequest)
        except msgspec.MsgspecError as error:
            log.error("request not understood", why=str(error))
            return []
        stream, route = request.stream, request.route
        champion = self._champion(stream, route)
        if champion != request.model_id and request.reason != "manual":
            log.info("request is settled already", request=request.request_id, champion=champion)
            return self._again(request, champion)
        try:
            model = self._train(request, champion)
        except EddyError as error:
            log.warning("no new model", request=request.request_id, why=str(error))
            return [self._event(request, "rejected", champion or "", champion, {}, str(error))]
        artefact_id = self._registry.save(model)
        self._registry.promote(stream, route, artefact_id)
        metrics = {
            "windows": float(model.detector.report.windows),
            "calibration_windows": float(len(model.calibration["full"])),
            "seconds": model.detector.report.seconds,
        }
        log.info("new champion", stream=stream, route=route, model=artefact_id, why=request.detail)
        return [self._event(request, "champion", artefact_id, champion, metrics, _why(request))]

    def _again(self, request: RetrainRequest, champion: str | None) -> list[Output]:
        """Announce once more the champion that answered a request, if it still is the champion."""
        if champion is None:
            return []
        try:
            model = self._registry.load(request.stream, request.route, champion)
        except EddyError:
            return []  # what is wrong with it is said where it is needed
        if model.description.parent_id != request.model_id:
            return []
        parent = request.model_id
        return [self._event(request, "champion", champion, parent, {}, _why(request))]

    def _champion(self, stream: str, route: str) -> str | None:
        """Return the model that speaks, or ``None`` if there is none for windows as they are."""
        layout = self._layouts.get((stream, route))
        champion = None if layout is None else self._registry.champion(stream, route)
        if layout is None or champion is None:
            return None
        try:
            model = self._registry.load(stream, route, champion)
        except EddyError:
            return champion  # what is wrong with it is said where it is needed
        try:
            model.check_layout(layout)
        except ArtefactError as error:
            log.warning("the champion does not count", why=str(error))
            return None
        return champion

    def _train(self, request: RetrainRequest, champion: str | None) -> Model:
        stream = self._config.streams.get(request.stream)
        routes = {} if stream is None else {r.label: r for r in stream.routes}
        if stream is None or request.route not in routes:
            msg = f"request {request.request_id}: no route {request.stream}/{request.route} here"
            raise EddyError(msg)
        table = record_archive(self._storage, request.stream).read(limit_records=RECORDS)
        if not table.num_rows:
            msg = f"{request.stream}: the archive at {self._storage.uri} is empty"
            raise EddyError(msg)
        records = archived_records(stream, table)
        suspects = quarantine_archive(self._storage, request.stream).read()
        parent = None
        if champion is not None:
            where = (request.stream, request.route, champion)
            parent = self._registry.load(*where, device=self._device)
        history = build_history(
            stream,
            records,
            templates=() if parent is None else parent.description.templates,
            quarantine=Quarantine(suspects, request.changed_at),
        )
        if parent is not None and request.reason == "age" and parent.can_be_updated:
            return update_route(parent, history, budget=self._budget)
        return fit_route(
            request.stream,
            stream,
            routes[request.route],
            history,
            parent_id=champion,
            changed_at=request.changed_at,
            seed=self._seed,
            device=self._device,
            budget=self._budget,
        )

    def _event(
        self,
        request: RetrainRequest,
        stage: Stage,
        artefact_id: str,
        parent: str | None,
        metrics: dict[str, float],
        why: str,
    ) -> Output:
        event = ModelEvent(
            stream=request.stream,
            route=request.route,
            stage=stage,
            artefact_id=artefact_id,
            uri=f"{self._storage.uri}/models/{request.stream}/{request.route}/{artefact_id}",
            parent_id=parent,
            request_id=request.request_id,
            metrics=metrics,
            why=why,
            at=time.time_ns(),
        )
        return model_output(self._topics, event)


def _why(request: RetrainRequest) -> str:
    return f"{request.reason}: {request.detail}"


def model_output(topics: Topics, event: ModelEvent) -> Output:
    """Wrap a model event; the topic keeps the newest of each stream, route and stage."""
    # a rejection must not displace the champion that workers look for when they start
    key = f"{event.stream}/{event.route}/{event.stage}"
    return Output(topics.models, key.encode(), messages.encode(event))
