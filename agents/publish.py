"""publish: verdicts become messages on their topics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.decide import Verdicts
from agents.records import Floats, Records
from agents.window import Windows
from connectors.base import Output, Partition
from schemas import messages
from schemas.config import Emit
from schemas.messages import (
    Account,
    Contribution,
    DeadLetter,
    Incident,
    Message,
    RetrainRequest,
    ScoredEvent,
)
from schemas.topics import Topics

_MS = 10**6


class EventIds:
    """Hashes what a window is into its ``event_id``."""

    def __init__(self, stream: str, route: str, window: str) -> None:
        self._base = hashlib.blake2b(f"{stream}\0{route}\0{window}\0".encode(), digest_size=16)

    def __call__(self, windows: Windows, records: Records | None, rows: Sequence[int]) -> list[str]:
        """Return the ids of the windows ``rows``."""
        ids = []
        for index in rows:
            if windows.identity is not None:
                identity = windows.identity[index]
            else:
                identity = _record_identity(windows, records, index)
            state = self._base.copy()
            state.update(f"{windows.key[index]}\0{identity}".encode())
            ids.append(state.hexdigest())
        return ids


def _record_identity(windows: Windows, records: Records | None, index: int) -> str:
    if records is None or windows.row is None:
        msg = "windows of records need the records they end with"
        raise ValueError(msg)
    return records.identity(int(windows.row[index]))


def emitted(emit: Emit, verdicts: Verdicts, ids: list[str] | None) -> NDArray[np.bool_]:
    """Choose the windows to publish; the hash sample picks the same ones wherever it runs."""
    if emit.mode == "all":
        return np.ones(len(verdicts.p_value), dtype=bool)
    if emit.mode == "anomalies" or ids is None:
        return verdicts.is_anomaly
    limit = int(emit.sample * 0xFFFFFFFF)
    sampled: NDArray[np.bool_] = np.array([int(i[:8], 16) < limit for i in ids], dtype=bool)
    return np.logical_or(verdicts.is_anomaly, sampled)


@dataclass(frozen=True, slots=True)
class Judged:
    """Windows of one route in one partition with all that was found out about them.

    ``chosen`` marks those that the stream publishes, ``ids`` names those that are published.
    """

    partition: Partition
    windows: Windows
    records: Records | None
    scores: Floats
    verdicts: Verdicts
    chosen: NDArray[np.bool_]
    model_id: str
    detector: str
    contributions: dict[int, list[Contribution]]
    incidents: dict[int, str]
    ids: dict[int, str]


def scored_events(
    topic: str, stream: str, route: str, judged: Judged, processed_at: int
) -> list[Output]:
    """Make the scored events of the windows that have an id.

    They bear the log's time of the last record, as in Kafka Streams: event times may be older than
    the retention of the topic.
    """
    windows, verdicts = judged.windows, judged.verdicts
    start, end = windows.start.tolist(), windows.end.tolist()
    first, last = windows.first_offset.tolist(), windows.last_offset.tolist()
    records, log_time = windows.records.tolist(), windows.log_time.tolist()
    revision = [0] * len(windows) if windows.revision is None else windows.revision.tolist()
    retracted = None if windows.retracted is None else windows.retracted.tolist()
    scores, p_values = judged.scores.tolist(), verdicts.p_value.tolist()
    thresholds, anomalous = verdicts.threshold.tolist(), verdicts.is_anomaly.tolist()
    topic_in, partition = judged.partition
    outputs = []
    for i, event_id in judged.ids.items():
        key = windows.key[i]
        event = ScoredEvent(
            event_id=event_id,
            revision=revision[i],
            retracted=retracted is not None and retracted[i],
            stream=stream,
            route=route,
            key=key or None,
            window_start=start[i],
            window_end=end[i],
            topic=topic_in,
            partition=partition,
            first_offset=first[i],
            last_offset=last[i],
            records=records[i],
            score=scores[i],
            p_value=p_values[i],
            threshold=thresholds[i],
            is_anomaly=anomalous[i],
            detector=judged.detector,
            model_id=judged.model_id,
            contributions=judged.contributions.get(i, []),
            incident_id=judged.incidents.get(i),
            processed_at=processed_at,
            latency_ns=processed_at - log_time[i],
            event_latency_ns=processed_at - end[i],
        )
        outputs.append(
            Output(topic, (key or event_id).encode(), messages.encode(event), log_time[i] // _MS)
        )
    return outputs


class Envelope:
    """Wraps messages for the topics of a deployment."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics

    def incident(self, incident: Incident) -> Output:
        """Wrap an incident, keyed by its id."""
        topic = self.topics.alerts(incident.stream)
        return self._wrap(topic, incident.incident_id, incident)

    def request(self, request: RetrainRequest) -> Output:
        """Wrap a retraining request, keyed by stream and route."""
        key = f"{request.stream}/{request.route}"
        return self._wrap(self.topics.retrain, key, request)

    def dead_letter(self, letter: DeadLetter) -> Output:
        """Wrap a dead letter, keyed by the position of its record."""
        key = f"{letter.topic}/{letter.partition}/{letter.offset}"
        return self._wrap(self.topics.dead_letters, key, letter)

    def account(self, account: Account) -> Output:
        """Wrap an account; its topic keeps the newest of each stream and partition."""
        key = f"{account.stream}/{account.topic}/{account.partition}"
        return self._wrap(self.topics.accounts, key, account)

    def _wrap(self, topic: str, key: str, message: Message) -> Output:
        return Output(topic, key.encode(), messages.encode(message))
