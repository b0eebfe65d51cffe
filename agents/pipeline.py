"""The pipeline: fetches in, outputs out. Kafka, files and tests all drive this one.

It is synchronous and deterministic, and does no input or output but for keys that wait on the local
disk (:mod:`agents.residents`). The windows of all partitions
that wait for the same model are scored in one call; what is decided about them then follows
partition by partition, in the order of the records.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.account import Ledger
from agents.archiving import archive_table
from agents.decode import Decoder
from agents.judge import MISSING_MODEL_AFTER, Judge, Observer, Result, Scored
from agents.layout import check_state, route_layout, state_layout
from agents.partition import PartitionState
from agents.publish import Envelope, EventIds
from agents.records import Records
from agents.residents import KeyCounts, Traffic
from agents.room import Room
from agents.scattered import Scattered
from agents.score import matching, score_by_model
from agents.snapshot import State
from agents.window import Windows
from connectors.base import Fetch, Partition
from connectors.spill import SpillSpace
from detectors.model import Model
from detectors.windows import Layout
from schemas.config import Pipeline as Config
from schemas.errors import ConfigError
from schemas.messages import Account, Incident
from schemas.topics import Topics


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
        Returns ns since 1970 UTC; enters ``processed_at``, latencies and what is ``stale`` only.
    label
        A field that holds labels, for measuring.
    rekeyed
        Whether records come from the re-keying stage where a stream needs one; files, which are
        read as if keyed by entity, come straight from the source topic.
    now
        For files, the time of reading; see :class:`agents.decode.Decoder`.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], int],
        *,
        label: str | None = None,
        rekeyed: bool = True,
        now: int | None = None,
    ) -> None:
        self.config = config
        self.topics = Topics(config.name)
        self._envelope = Envelope(self.topics)
        self._models: dict[tuple[str, str], Model] = {}
        self._states: dict[Partition, PartitionState] = {}
        self._traffic = Traffic()
        self._scattered = Scattered()
        self.spill_space = SpillSpace(config.state.spill)
        self._stream_of: dict[str, str] = {}
        self.decoders: dict[str, Decoder] = {}
        self.layouts: dict[tuple[str, str], Layout] = {}
        ids: dict[tuple[str, str], EventIds] = {}
        self._judges = Judge(ids, self._envelope, clock)
        self._clock, self._live = clock, now is None
        for name, stream in config.streams.items():
            topic = stream.source.topic
            if rekeyed and not stream.key_partitioned:
                topic = self.topics.keyed(name)
            if topic in self._stream_of:
                msg = f"streams.{name}.source.topic: {topic!r} feeds another stream too"
                raise ConfigError(msg)
            self._stream_of[topic] = name
            self.decoders[name] = Decoder(name, stream, config.limits, label, now)
            for route in stream.routes:
                layout = route_layout(name, stream, route)
                self.layouts[name, route.label] = layout
                ids[name, route.label] = EventIds(name, route.label, layout.window)

    @property
    def observe(self) -> Observer | None:
        """Called with everything that was decided, published or not."""
        return self._judges.observe

    @observe.setter
    def observe(self, observer: Observer | None) -> None:
        self._judges.observe = observer

    def stream_of(self, partition: Partition) -> str:
        """Name the stream that a partition belongs to."""
        return self._stream_of[partition.topic]

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
                state.follow(route, model)

    def speaking(self, stream: str, route: str) -> Model | None:
        """Return the model last applied to a route; a restored partition may follow another."""
        return self._models.get((stream, route))

    def stragglers(self) -> dict[tuple[str, str], Model]:
        """Return the models last applied to routes of which a partition follows another one."""
        return {
            (state.name, label): model
            for state in self._states.values()
            for label, route in state.routes.items()
            if (model := self._models.get((state.name, label))) is not None
            and (route.model is None or route.model.model_id != model.model_id)
        }

    def drop_others(self, partitions: Collection[Partition]) -> None:
        """Forget the state of all partitions but these."""
        for partition in self._states.keys() - set(partitions):
            self._states.pop(partition).keys.close()
        self._share_memory()

    def restart_account(self, partition: Partition) -> None:
        """Count the records of a partition, and what misses a model, from here on."""
        state = self._state(partition)
        state.ledger = Ledger()
        for route in state.routes.values():
            route.unscored = 0

    # -- state ----------------------------------------------------------------------------

    def snapshot_bytes(self, partition: Partition) -> int:
        """Return how much room a copy of the state of a partition takes, its keys and all."""
        return self._state(partition).keys.row_bytes

    def snapshot(self, partition: Partition, room: Room | None = None) -> State:
        """Copy the state of a partition, and name what it was made with.

        What is large of it goes into a room, if there is one.
        """
        state = self._state(partition)
        models = {label: route.model for label, route in state.routes.items()}
        return {
            "layout": state_layout(state.name, state.stream),
            "models": {label: model.model_id for label, model in models.items() if model},
            **state.state(room or Room()),
        }

    def restore(
        self, partition: Partition, state: State, models: Mapping[str, Model]
    ) -> frozenset[str]:
        """Let a partition go on from what :meth:`snapshot` returned.

        Parameters
        ----------
        models
            The models that ``state["models"]`` names, by route, of the routes that there are.

        Returns
        -------
        frozenset
            The routes that begin anew, since the pipeline file says something else of them now.

        Raises
        ------
        DataError
            If the state was made for another configuration of the stream.
        ArtefactError
            If a model is not the one that the state was made with.
        """
        restored = self._new_state(partition)
        kept = check_state(state, state_layout(restored.name, restored.stream), models)
        restored.restore(state, {x: models[x] for x in state["models"] if x in kept}, kept)
        anew = restored.routes.keys() - kept
        self._follow(restored, anew)
        if partition in self._states:
            self._states[partition].keys.close()
        self._states[partition] = restored
        self._share_memory()
        return frozenset(anew)

    # -- flow -----------------------------------------------------------------------------

    def process(self, fetches: Sequence[Fetch]) -> Result:
        """Take fetches through all steps; those of one partition in offset order."""
        result, pending = Result(), []
        for fetch in fetches:
            if not len(fetch):
                continue
            state = self._state(fetch.partition)
            ingested = state.ingest(fetch)
            letters = map(self._envelope.dead_letter, ingested.dead_letters)
            result.outputs[fetch.partition] += letters
            self._tell_silences(state, ingested.silences, result)
            if state.stream.key_partitioned:
                every = [x.keys for x in self._states.values() if x.name == state.name]
                self._scattered.look(state.name, state.keys, every)
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
            silences = [] if state.silence is None else state.silence.finish()
            self._tell_silences(state, silences, result)
            for route in state.routes.values():
                incidents = route.staleness.mark(route.incidents.finish(), self._clock)
                result.outputs[state.partition] += map(self._envelope.incident, incidents)
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
        """Bytes in memory of what is known of the keys of all partitions."""
        return sum(state.nbytes() for state in self._states.values())

    def keys(self) -> KeyCounts:
        """Count the keys of all partitions, and those that went and came."""
        every = [state.keys for state in self._states.values()]
        return KeyCounts(
            resident=sum(map(len, every)),
            spilled=sum(keys.spilled for keys in every),
            state_bytes=self.state_bytes(),
            spill_bytes=sum(keys.spill_bytes for keys in every),
            evicted=self._traffic.evicted,
            returned=self._traffic.returned,
            scattered=self._scattered.count,
        )

    # -- steps that span partitions -------------------------------------------------------

    def _state(self, partition: Partition) -> PartitionState:
        if partition not in self._states:
            state = self._states[partition] = self._new_state(partition)
            self._follow(state, state.routes)
            self._share_memory()
        return self._states[partition]

    def _follow(self, state: PartitionState, labels: Iterable[str]) -> None:
        for label in labels:
            model = self._models.get((state.name, label))
            if model is not None:
                state.follow(label, model)

    def _share_memory(self) -> None:
        """Give each partition its share of the memory for state."""
        for state in self._states.values():
            state.keys.limit(self.config.state.memory // len(self._states))

    def _new_state(self, partition: Partition) -> PartitionState:
        name = self._stream_of[partition.topic]
        stream, decoder = self.config.streams[name], self.decoders[name]
        partitions, space = self.config.partitions, self.spill_space
        return PartitionState(
            name, stream, partition, decoder, partitions, space, self._traffic, live=self._live
        )

    def _tell_silences(
        self, state: PartitionState, silences: list[Incident], result: Result
    ) -> None:
        """Publish what a partition has to say of silent keys."""
        if state.silence is None:
            return
        state.count_incidents()
        said = state.staleness.mark(silences, self._clock)
        # a silence goes on without a window: with every record of other keys
        open_now = state.silence.silences.places
        ends = np.full(len(open_now), state.silence.clock)
        said += state.staleness.again(dict(enumerate(open_now)), ends, self._clock)
        result.outputs[state.partition] += map(self._envelope.incident, said)

    def _judge(self, pending: list[_Pending], result: Result) -> None:
        """Score the windows of all partitions route by route, then decide about each."""
        for name, stream in self.config.streams.items():
            mine = [p for p in pending if p.state.name == name and len(p.windows)]
            for route in stream.routes if mine else []:
                chosen = [matching(p.windows, stream, route) for p in mine]
                models = [p.state.routes[route.label].model for p in mine]
                scores = score_by_model(models, chosen)
                for item, windows, model, part in zip(mine, chosen, models, scores, strict=True):
                    if model is None or part is None:
                        enough = MISSING_MODEL_AFTER / self.config.partitions
                        self._judges.unscored(
                            item.state, route.label, windows.firsts.end, enough, result
                        )
                    elif len(windows):
                        scored = Scored(item.state, route.label, windows, item.records, model, part)
                        self._judges(scored, result)
