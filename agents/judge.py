"""judge: scored windows of one partition are decided on, explained, gathered and watched."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from agents.decide import Verdicts
from agents.gather import gather
from agents.partition import PartitionState, RouteState
from agents.publish import Envelope, EventIds, Judged, emitted, scored_events
from agents.records import Floats, Ints, Records
from agents.retraining import drift_request, missing_request, update_request
from agents.score import arrays
from agents.window import Windows, logarithms
from connectors.base import Output, Partition
from detectors.model import Model


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
        Messages to publish, by the partition whose records they follow from, in order.
    positions
        The next offset of each partition, to be committed once the outputs are safe.
    archive
        Records to keep for training, by stream and partition.
    quarantine
        Which windows of theirs were anomalous.
    """

    outputs: defaultdict[Partition, list[Output]] = field(default_factory=lambda: defaultdict(list))
    positions: dict[Partition, int] = field(default_factory=dict)
    archive: list[tuple[str, Partition, pa.Table]] = field(default_factory=list)
    quarantine: list[tuple[str, Partition, pa.Table]] = field(default_factory=list)


MISSING_MODEL_AFTER = 2_000
"""Windows without a model after which one is asked for: fewer are not worth fitting on."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Consecutive windows of one partition with their ``[W]`` scores by one model."""

    state: PartitionState
    label: str
    windows: Windows
    records: Records | None
    model: Model
    scores: Floats

    @property
    def route(self) -> RouteState:
        """What the route has learned of the partition."""
        return self.state.routes[self.label]


class Judge:
    """Decides about windows in the order of their partition, and says so.

    Parameters
    ----------
    ids
        What hashes the windows of each stream and route.
    envelope
        What wraps messages.
    clock
        Returns ns since 1970 UTC; enters ``processed_at``, latencies and what is ``stale`` only.

    Attributes
    ----------
    observe
        Called with everything that was decided, published or not.
    """

    def __init__(
        self,
        ids: Mapping[tuple[str, str], EventIds],
        envelope: Envelope,
        clock: Callable[[], int],
    ) -> None:
        self.observe: Observer | None = None
        self._ids, self._envelope, self._clock = ids, envelope, clock

    def __call__(self, scored: Scored, result: Result) -> None:
        """Judge windows, and put what is to be published about them into ``result``."""
        state, route, windows = scored.state, scored.route, scored.windows
        partial = windows.length < windows.num.shape[1]
        verdicts = route.decider(scored.scores, windows.end, partial, windows.revised)
        if windows.retracted is not None:
            verdicts = replace(verdicts, is_anomaly=verdicts.is_anomaly & ~windows.retracted)
        judged = self._named(scored, verdicts)
        incidents, suspect = gather(state, route, scored.model, judged)
        outputs = result.outputs[state.partition]
        incidents = route.staleness.mark(incidents, self._clock)
        incidents += route.staleness.again(judged.incidents, windows.end, self._clock)
        outputs += map(self._envelope.incident, incidents)
        if state.stream.archive and suspect is not None:
            result.quarantine.append((state.name, state.partition, suspect))
        if self.observe is not None:
            self.observe(state, scored.label, judged)
        outputs += scored_events(
            self._envelope.topics.scored(state.name),
            state.name,
            scored.label,
            judged,
            self._clock(),
        )
        route.newest = max(route.newest, int(windows.end.max()))
        closed = route.staleness.mark(route.incidents.close_before(route.newest), self._clock)
        outputs += map(self._envelope.incident, closed)
        state.ledger.scored += len(windows.firsts)
        state.count_incidents()
        self._watch(scored, result)

    def unscored(
        self, state: PartitionState, label: str, ends: Ints, enough: float, result: Result
    ) -> None:
        """Count windows, of event times ``ends``, that no model can score.

        The window that makes ``enough`` of them asks for a model.
        """
        route, count = state.routes[label], len(ends)
        state.ledger.unscored += count
        asking = max(math.ceil(enough), 1) - route.unscored - 1
        route.unscored += count
        if not 0 <= asking < count:
            return
        time = int(ends[asking])
        request = missing_request(state.name, label, state.first_time or 0, time)
        result.outputs[state.partition].append(self._envelope.request(request))

    def _named(self, scored: Scored, verdicts: Verdicts) -> Judged:
        """Give the windows that are to be published, and all revised ones, their ids."""
        state, windows, records = scored.state, scored.windows, scored.records
        ids, emit = self._ids[state.name, scored.label], state.stream.emit
        sampled = ids(windows, records, range(len(windows))) if emit.mode == "sample" else None
        chosen = emitted(emit, verdicts, sampled)
        named = chosen if windows.revised is None else chosen | windows.revised
        out = np.flatnonzero(named).tolist()
        names = [sampled[i] for i in out] if sampled else ids(windows, records, out)
        return Judged(
            state.partition,
            windows,
            records,
            scored.scores,
            verdicts,
            chosen,
            scored.model.model_id,
            scored.model.detector.caps.name,
            {},
            {},
            dict(zip(out, names, strict=True)),
        )

    def _watch(self, scored: Scored, result: Result) -> None:
        """Ask for a new model where windows have drifted from what it knows, or it is to learn."""
        state, model, windows = scored.state, scored.model, scored.windows
        scores = scored.scores if windows.revised is None else scored.scores[~windows.revised]
        since, stream = state.first_time or 0, state.stream
        wishes = [
            drift_request(state.name, scored.label, model, finding, time, since, logarithms(stream))
            for finding, time in scored.route.watcher(arrays(windows.firsts), scores)
        ]
        ends, before = windows.firsts.end, scored.route.spoken
        wishes += [
            update_request(state.name, scored.label, model, before + i + 1, int(ends[i]))
            for i in scored.route.due(len(ends))
        ]
        result.outputs[state.partition] += map(self._envelope.request, wishes)
