"""The pipeline: fetches in, outputs out. Kafka, files and tests all drive this one.

It is synchronous and deterministic and does no input or output. The windows of all partitions
that wait for the same model are scored in one call; what is decided about them then follows
partition by partition, in the order of the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agents.account import Ledger
from agents.archiving import archive_table, quarantine_table
from agents.decode import Decoder
from agents.encode import feature_names
from agents.explain import reasons
from agents.partition import PartitionState, RouteState
from agents.publish import Envelope, EventIds, Judged, emitted, scored_events
from agents.records import Floats, Records
from agents.templates import code_of
from agents.watch import drift_request, request_id
from agents.window import Windows, window_shape
from connectors.base import Fetch, Output, Partition
from detectors.model import Model
from detectors.windows import Layout, WindowArrays
from schemas.config import Pipeline as Config
from schemas.config import Route, Stream
from schemas.errors import ConfigError
from schemas.messages import Account, RetrainRequest
from schemas.topics import Topics

MISSING_MODEL_AFTER = 2_000
"""Windows without a model after which one is asked for: fewer are not worth fitting on."""


class Observer(Protocol):
    """Is shown what the pipeline sees and decides; changes nothing."""

    def saw(self, records: Records, stream: str) -> None:
        """Take note of decoded records, before the windows that they complete."""
        ...

    def __call__(self, state: PartitionState, route: str, judged: Judged) -> None:
        """Take note of judged windows."""
        ...


@dataclass(slots=True)
class Result:
    """What some fetches led to.

    Attributes
    ----------
    outputs
        Messages to publish, those of one key in order.
    positions
        The next offset of each partition, to be committed once the outputs are safe.
    archive
        Records to keep for training, by stream and partition.
    quarantine
        Which windows of theirs were anomalous.
    """

    outputs: list[Output] = field(default_factory=list)
    positions: dict[Partition, int] = field(default_factory=dict)
    archive: list[tuple[str, Partition, pa.Table]] = field(default_factory=list)
    quarantine: list[tuple[str, Partition, pa.Table]] = field(default_factory=list)


@dataclass(slots=True)
class _Pending:
    state: PartitionState
    windows: Windows
    records: Records | None


class Pipeline:
    """All streams of a configuration.

    Parameters
    ----------
    config
        The pipeline file.
    clock
        Returns ns since 1970 UTC; enters ``processed_at`` and latencies only.
    label
        A field that holds labels, for measuring.
    rekeyed
        Whether records come from the re-keying stage where a stream needs one; files, which are
        read as if keyed by entity, come straight from the source topic.

    Attributes
    ----------
    observe
        Called with everything that was decided, published or not.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], int],
        *,
        label: str | None = None,
        rekeyed: bool = True,
    ) -> None:
        self.observe: Observer | None = None
        self.config = config
        self.topics = Topics(config.name)
        self._clock = clock
        self._envelope = Envelope(self.topics)
        self._models: dict[tuple[str, str], Model] = {}
        self._states: dict[Partition, PartitionState] = {}
        self._stream_of: dict[str, str] = {}
        self.decoders: dict[str, Decoder] = {}
        self.layouts: dict[tuple[str, str], Layout] = {}
        self._ids: dict[tuple[str, str], EventIds] = {}
        for name, stream in config.streams.items():
            topic = stream.source.topic
            if rekeyed and not stream.key_partitioned:
                topic = self.topics.keyed(name)
            if topic in self._stream_of:
                msg = f"streams.{name}.source.topic: {topic!r} feeds another stream too"
                raise ConfigError(msg)
            self._stream_of[topic] = name
            self.decoders[name] = Decoder(name, stream, config.limits, label)
            for route in stream.routes:
                layout = route_layout(name, stream, route)
                self.layouts[name, route.label] = layout
                self._ids[name, route.label] = EventIds(name, route.label, layout.window)

    @property
    def input_topics(self) -> list[str]:
        """Topics whose records the pipeline windows."""
        return list(self._stream_of)

    # -- control --------------------------------------------------------------------------

    def apply(self, stream: str, route: str, model: Model) -> None:
        """Let a model speak for a route from the next window on.

        The caller makes this a barrier: everything before it published and committed.

        Raises
        ------
        ArtefactError
            If the model was made for windows of another layout.
        """
        model.check_layout(self.layouts[stream, route])
        self._models[stream, route] = model
        for state in self._states.values():
            if state.name == stream:
                self._follow(state)

    def model_id(self, stream: str, route: str) -> str | None:
        """Id of the model that speaks for a route."""
        model = self._models.get((stream, route))
        return None if model is None else model.model_id

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget the state of partitions that now belong to another worker."""
        for partition in partitions:
            self._states.pop(partition, None)

    # -- flow -----------------------------------------------------------------------------

    def process(self, fetches: Sequence[Fetch]) -> Result:
        """Take fetches through all steps; those of one partition in offset order."""
        result, pending = Result(), []
        for fetch in fetches:
            if not len(fetch):
                continue
            state = self._state(fetch.partition)
            ingested = state.ingest(fetch)
            result.outputs += map(self._envelope.dead_letter, ingested.dead_letters)
            if self.observe is not None:
                self.observe.saw(ingested.records, state.name)
            result.positions[fetch.partition] = int(fetch.offsets[-1]) + 1
            pending.append(_Pending(state, ingested.windows, ingested.records))
        self._judge(pending, result)
        for item in pending:
            if item.state.stream.archive and item.records is not None and len(item.records):
                table = archive_table(item.state.stream, item.records)
                result.archive.append((item.state.name, item.state.partition, table))
        return result

    def finish(self) -> Result:
        """Close windows and incidents: the input has ended."""
        result = Result()
        pending = [_Pending(s, s.finish(), None) for s in self._states.values()]
        self._judge(pending, result)
        for state in self._states.values():
            for route in state.routes.values():
                result.outputs += map(self._envelope.incident, route.incidents.finish())
        return result

    def accounts(self) -> list[Account]:
        """Where the records of every partition went so far."""
        return [s.ledger.message(s.name, s.partition) for s in self._states.values()]

    def totals(self) -> dict[str, Ledger]:
        """Accounts added up by stream."""
        totals = {name: Ledger() for name in self.config.streams}
        for state in self._states.values():
            totals[state.name] += state.ledger
        return totals

    def state_bytes(self) -> int:
        """Bytes that the window state of all partitions occupies."""
        return sum(state.windower.nbytes() for state in self._states.values())

    # -- steps that span partitions -------------------------------------------------------

    def _state(self, partition: Partition) -> PartitionState:
        if partition not in self._states:
            name = self._stream_of[partition.topic]
            stream = self.config.streams[name]
            state = PartitionState(
                name, stream, partition, self.decoders[name], self.config.partitions
            )
            self._states[partition] = state
            self._follow(state)
        return self._states[partition]

    def _follow(self, state: PartitionState) -> None:
        for label, route in state.routes.items():
            model = self._models.get((state.name, label))
            if model is not None:
                route.follow(model)
                if model.description.templates:
                    state.encoder.use_templates(model.description.templates)

    def _judge(self, pending: list[_Pending], result: Result) -> None:
        """Score the windows of all partitions route by route, then decide about each."""
        for name, stream in self.config.streams.items():
            mine = [p for p in pending if p.state.name == name and len(p.windows)]
            for route in stream.routes if mine else []:
                model = self._models.get((name, route.label))
                picked = [(p, _matching(p.windows, stream, route)) for p in mine]
                if model is None:
                    self._unscored(name, route.label, picked, result)
                    continue
                chosen = [
                    p.windows if rows is None else p.windows.select(rows) for p, rows in picked
                ]
                scores = _score_together(model, chosen)
                for (item, _), windows, part in zip(picked, chosen, scores, strict=True):
                    if len(windows):
                        self._decide(item, route.label, model, windows, part, result)

    def _decide(
        self,
        item: _Pending,
        label: str,
        model: Model,
        windows: Windows,
        scores: Floats,
        result: Result,
    ) -> None:
        """Judge consecutive windows of one partition, and say so."""
        state, route = item.state, item.state.routes[label]
        stream, ledger = state.stream, item.state.ledger
        partial = windows.length < windows.num.shape[1]
        verdicts = route.decider(scores, windows.end, partial)
        anomalies = np.flatnonzero(verdicts.is_anomaly)
        ids = self._ids[state.name, label]
        everything = range(len(windows))
        sampled = ids(windows, item.records, everything) if stream.emit.mode == "sample" else None
        out = np.flatnonzero(emitted(stream.emit, verdicts, sampled)).tolist()
        names = [sampled[i] for i in out] if sampled else ids(windows, item.records, out)
        judged = Judged(
            windows,
            item.records,
            scores,
            verdicts,
            model.model_id,
            model.detector.caps.name,
            {},
            {},
            dict(zip(out, names, strict=True)),
        )
        if len(anomalies):
            self._explain(state, route, model, judged, anomalies, result)
        if self.observe is not None:
            self.observe(state, label, judged)
        result.outputs += scored_events(
            self.topics.scored(state.name),
            state.name,
            label,
            state.partition,
            judged,
            self._clock(),
        )
        route.newest = max(route.newest, int(windows.end.max()))
        result.outputs += map(self._envelope.incident, route.incidents.close_before(route.newest))
        ledger.scored += len(windows)
        ledger.anomalies += len(anomalies)
        ledger.incidents = sum(r.incidents.opened for r in state.routes.values())
        ledger.suppressed = sum(r.incidents.suppressed for r in state.routes.values())
        self._watch(state, label, model, windows, scores, result)

    def _explain(
        self,
        state: PartitionState,
        route: RouteState,
        model: Model,
        judged: Judged,
        anomalies: NDArray[np.intp],
        result: Result,
    ) -> None:
        """Explain anomalies and gather them into incidents."""
        newest = np.maximum(np.maximum.accumulate(judged.windows.end), route.newest)
        few = judged.windows.select(anomalies)
        whys = reasons(
            model.description.layout,
            few,
            model.explain(_arrays(few)),
            records=judged.records,
            fields=state.stream.of_type("category"),
            templates=route.templates,
            sensitive=[n for n, f in state.stream.fields.items() if f.sensitive],
        )
        surge = np.zeros(len(few), dtype=bool)
        for position, (index, why) in enumerate(zip(anomalies.tolist(), whys, strict=True)):
            judged.contributions[index] = why.top
            placed = route.incidents.add(
                judged.ids[index],
                judged.windows.key[index],
                int(judged.windows.end[index]),
                int(newest[index]),
                float(judged.scores[index]),
                float(judged.verdicts.p_value[index]),
                float(judged.verdicts.threshold[index]),
                why,
            )
            surge[position] = placed.surge
            if placed.incident_id is not None:
                judged.incidents[index] = placed.incident_id
            result.outputs += map(self._envelope.incident, placed.messages)
        if state.stream.archive:
            table = quarantine_table(state.partition, few, surge)
            result.quarantine.append((state.name, state.partition, table))

    def _watch(
        self,
        state: PartitionState,
        label: str,
        model: Model,
        windows: Windows,
        scores: Floats,
        result: Result,
    ) -> None:
        route = state.routes[label]
        for finding, time in route.watcher(_arrays(windows), scores):
            since = max(state.first_time or 0, model.description.data_from)
            request = drift_request(state.name, label, model.model_id, finding, time, since)
            result.outputs.append(self._envelope.request(request))

    def _unscored(
        self,
        name: str,
        label: str,
        picked: list[tuple[_Pending, np.ndarray | None]],
        result: Result,
    ) -> None:
        """Count windows that no model can score; ask for one when there is enough to learn from."""
        for item, rows in picked:
            state, count = item.state, len(item.windows) if rows is None else int(rows.sum())
            state.ledger.unscored += count
            route = state.routes[label]
            route.unscored += count
            enough = MISSING_MODEL_AFTER / self.config.partitions
            if route.asked_for_model or route.unscored < enough:
                continue
            route.asked_for_model = True
            newest = int(item.windows.end.max())
            request = RetrainRequest(
                request_id=request_id(name, label, None, "missing"),
                stream=name,
                route=label,
                reason="missing",
                detail="windows arrive and no model has been fitted",
                data_from=state.first_time or 0,
                data_to=newest,
                model_id=None,
                requested_at=newest,
            )
            result.outputs.append(self._envelope.request(request))


def route_layout(name: str, stream: Stream, route: Route) -> Layout:
    """Describe the windows of a route, so that a model for other ones is refused."""
    steps, numbers, categories = window_shape(stream, *feature_names(stream))
    transforms = ",".join(f"{n}:{f.transform}" for n, f in stream.fields.items())
    window = f"{stream.window!r} key={stream.key} {transforms}"
    return Layout(name, route.label, steps, tuple(numbers), tuple(categories), window)


def _matching(windows: Windows, stream: Stream, route: Route) -> np.ndarray | None:
    """Mark the windows that a route's rules let through; ``None`` for all."""
    if not route.when:
        return None
    last = windows.cat[np.arange(len(windows)), windows.length - 1]
    fields = stream.of_type("category")
    keep = np.ones(len(windows), dtype=bool)
    for name, values in route.when.items():
        keep &= np.isin(last[:, fields.index(name)], [code_of(value) for value in values])
    return keep


def _arrays(windows: Windows) -> WindowArrays:
    return WindowArrays(windows.num, windows.cat, windows.length, windows.end)


def _score_together(model: Model, parts: list[Windows]) -> list[Floats]:
    """Score the windows of several partitions in one call."""
    if len(parts) == 1:
        return [model.score(_arrays(parts[0]))]
    joined = WindowArrays(
        np.concatenate([p.num for p in parts]),
        np.concatenate([p.cat for p in parts]),
        np.concatenate([p.length for p in parts]),
        np.concatenate([p.end for p in parts]),
    )
    scores = model.score(joined)
    return np.split(scores, np.cumsum([len(p) for p in parts])[:-1])
