"""The demonstration's material: generated traffic, a pipeline for it, and what came of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agents.decode import Decoder
from agents.fitting import build_history, fit_route
from agents.history import deal
from agents.registry import Registry
from connectors.base import Fetch, Output
from connectors.partitioner import partitions_of
from connectors.storage import Storage
from connectors.synthetic import GENERATORS, PATTERN, Episode
from schemas import messages
from schemas.config import Pipeline as Config
from schemas.messages import Account, Incident, ModelEvent, RetrainRequest, ScoredEvent
from schemas.parse import parse_pipeline
from schemas.topics import Topics

KINDS = ("logs", "transactions", "flows")
HISTORY = 0.4
DRIFT_AT = 0.7
SECOND_PHASE = 0.85
EPISODES = 24
ENTITIES = {"logs": 2, "transactions": 250, "flows": 20}  # so that each stream spans days
BAD = (b"{not json", b"", b"\xff\xfe\x00", b'{"unexpected": true}')
SETTLE: dict[str, dict[str, int]] = {"logs": {"settle": 200}, "transactions": {}, "flows": {}}
_JSON = {"format": "json"}
_STREAMS: dict[str, dict[str, Any]] = {
    "transactions": {
        "source": {"topic": "transactions", **_JSON},
        "key": "card_id",
        "id": "tx_id",
        "time": {"field": "ts", "unit": "ms"},
        "fields": {
            "amount": {"type": "number", "transform": "log1p"},
            "merchant": "category",
            "country": "category",
            "channel": "category",
        },
        "derive": ["gap", "time_of_day"],
        "window": {"kind": "sliding", "size": 4},
        "detectors": ["knn"],
    },
    "flows": {
        "source": {"topic": "flows", **_JSON},
        "key": "host",
        "id": "flow_id",
        "time": {"field": "ts", "unit": "ms"},
        "fields": {
            "bytes_in": {"type": "number", "transform": "log1p"},
            "bytes_out": {"type": "number", "transform": "log1p"},
            "packets": {"type": "number", "transform": "log1p"},
            "duration_ms": {"type": "number", "transform": "log1p"},
            "port": "category",
            "proto": "category",
        },
        "derive": ["gap", "time_of_day"],
        "window": {"kind": "sliding", "size": 4},
        "detectors": ["knn"],
    },
    "logs": {
        "source": {"topic": "logs", "format": "lines", "pattern": PATTERN},
        "key": "session",
        "time": {"field": "time", "unit": "iso"},
        "fields": {"message": "text"},
        "window": {"kind": "session", "gap": "5m", "size": 64},
        "detectors": [{"detector": "count_vector", "settings": {"transitions": True}}],
    },
}


def demo_pipeline(kinds: Sequence[str], bootstrap: str, storage: str, budget: float) -> Config:
    """Make the pipeline of the demonstration."""
    return parse_pipeline(demo_document(kinds, bootstrap, storage, budget))


def demo_document(
    kinds: Sequence[str], bootstrap: str, storage: str, budget: float
) -> dict[str, Any]:
    """Make its file."""
    alerts = {"budget_per_day": budget, "incident_gap": "6h"}
    drift = {"false_alarm_every": 100_000, "cooldown": "1d"}
    return {
        "name": "demo",
        "partitions": 2,
        "kafka": {"bootstrap": bootstrap},
        "storage": storage,
        "streams": {
            kind: {**_STREAMS[kind], "alerts": alerts, "drift": drift | SETTLE[kind], "emit": "all"}
            for kind in kinds
        },
    }


@dataclass(slots=True)
class Traffic:
    """The traffic of one stream: history to fit on, then two phases to judge.

    The first phase ends some time after the drift, so that a new model can be trained and speak
    in the second.
    """

    kind: str
    episodes: list[Episode]
    history: tuple[list[bytes], list[bytes]]
    phases: list[tuple[list[bytes], list[bytes]]]
    days: float

    @property
    def records(self) -> int:
        """Number of messages of both phases."""
        return sum(len(values) for values, _ in self.phases)


def make_traffic(kind: str, seed: int, records: int) -> Traffic:
    """Generate the traffic of a stream, with some bad and repeated messages in it."""
    records *= 2 if kind == "logs" else 1  # a session is many lines, and one window
    generator = GENERATORS[kind](
        seed=seed,
        records=records,
        entities=ENTITIES[kind],
        anomaly_episodes=EPISODES,
        anomalies_from=HISTORY + 0.02,
        drift_at=DRIFT_AT,
    )
    values: list[bytes] = []
    keys: list[bytes] = []
    times: list[np.ndarray] = []
    for chunk in generator.generate():
        values += chunk.values
        keys += chunk.keys
        times.append(chunk.times)
    time = np.concatenate(times)
    cut, second = int(records * HISTORY), int(records * SECOND_PHASE)
    history, early = (values[:cut], keys[:cut]), set()
    if kind == "logs":  # the lines of a session that began in the history belong to it
        early = set(keys[:cut])
        late = [i for i in range(cut, records) if keys[i] in early]
        history = (history[0] + [values[i] for i in late], history[1] + [keys[i] for i in late])
    phases = [
        _without(values[a:b], keys[a:b], early) for a, b in ((cut, second), (second, records))
    ]
    rng = np.random.default_rng(seed)
    for at, bad in zip(sorted(rng.integers(0, len(phases[0][0]), len(BAD))), BAD, strict=True):
        phases[0][0].insert(int(at), bad)
        phases[0][1].insert(int(at), b"bad")
    repeated = int(rng.integers(0, len(phases[0][0]) - 100))
    for part in phases[0]:
        part[repeated + 50 : repeated + 50] = part[repeated : repeated + 3]
    days = float(time[-1] - time[cut]) / 86_400e9
    return Traffic(kind, generator.episodes, history, phases, days)


def _without(
    values: list[bytes], keys: list[bytes], left_out: set[bytes]
) -> tuple[list[bytes], list[bytes]]:
    kept = [i for i, key in enumerate(keys) if key not in left_out]
    return [values[i] for i in kept], [keys[i] for i in kept]


def as_fetches(
    topic: str, values: list[bytes], keys: list[bytes], partitions: int, offsets: list[int]
) -> list[Fetch]:
    """Deal messages out to partitions as a producer would; ``offsets`` are moved on."""
    return deal(topic, values, keys, partitions_of(keys, partitions), offsets)


def fit_history(config: Config, traffic: Traffic, storage: Storage, seed: int) -> list[str]:
    """Fit the first models of a stream; return their ids."""
    stream = config.streams[traffic.kind]
    decoder = Decoder(traffic.kind, stream, config.limits)
    fetches = as_fetches(
        stream.source.topic, *traffic.history, config.partitions, [0] * config.partitions
    )
    history = build_history(stream, [decoder(fetch).records for fetch in fetches])
    registry, ids = Registry(storage), []
    for route in stream.routes:
        model = fit_route(traffic.kind, stream, route, history, seed=seed)
        registry.save(model)
        registry.promote(traffic.kind, route.label, model.model_id)
        ids.append(model.model_id)
    return ids


@dataclass(slots=True)
class Outcome:
    """What became of one stream."""

    traffic: Traffic
    account: Account | None = None
    incidents: dict[str, Incident] = field(default_factory=dict)
    requests: list[RetrainRequest] = field(default_factory=list)
    champions: list[ModelEvent] = field(default_factory=list)
    models_seen: set[str] = field(default_factory=set)
    alerted: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Whether every message sent has exactly one fate."""
        a = self.account
        if a is None:
            return False
        fates = a.windowed + a.late + a.duplicate + a.dead_letter + a.filtered
        return a.records_in == fates == self.traffic.records

    @property
    def found(self) -> list[Episode]:
        """The injected anomalies that an incident speaks of: one of its windows holds them."""
        return [
            episode
            for episode in self.traffic.episodes
            if any(
                start <= episode.end_ns and end >= episode.start_ns
                for start, end in self.alerted.get(episode.key, ())
            )
        ]

    @property
    def recall(self) -> float:
        """Share of the injected anomalies that were found."""
        return len(self.found) / max(len(self.traffic.episodes), 1)

    @property
    def renewed(self) -> bool:
        """Whether a drift led to a model that then judged windows."""
        wished = {r.request_id for r in self.requests if r.reason == "drift"}
        return any(
            e.request_id in wished and e.artefact_id in self.models_seen for e in self.champions
        )


def collect(
    config: Config, traffic: Iterable[Traffic], outputs: dict[str, list[Output]]
) -> dict[str, Outcome]:
    """Read what was published about each stream."""
    topics = Topics(config.name)
    outcomes = {t.kind: Outcome(t) for t in traffic}
    newest: dict[tuple[str, int], Account] = {}
    for output in outputs.get(topics.accounts, ()):
        account = messages.decode(output.value, Account)
        newest[account.stream, account.partition] = account
    for (stream, _), account in newest.items():
        outcomes[stream].account = _sum(outcomes[stream].account, account)
    for output in outputs.get(topics.retrain, ()):
        request = messages.decode(output.value, RetrainRequest)
        outcomes[request.stream].requests.append(request)
    for output in outputs.get(topics.models, ()):
        event = messages.decode(output.value, ModelEvent)
        if event.stage == "champion":
            outcomes[event.stream].champions.append(event)
    for kind, outcome in outcomes.items():
        for output in outputs.get(topics.alerts(kind), ()):
            incident = messages.decode(output.value, Incident)
            outcome.incidents[incident.incident_id] = incident
        for output in outputs.get(topics.scored(kind), ()):
            scored = messages.decode(output.value, ScoredEvent)
            outcome.models_seen.add(scored.model_id)
            told = outcome.incidents.get(scored.incident_id or "")
            # an incident of many keys says of none of them what it did
            if told is not None and told.key_count == 1 and scored.key is not None:
                span = (scored.window_start, scored.window_end)
                outcome.alerted.setdefault(scored.key, []).append(span)
    return outcomes


def _sum(total: Account | None, more: Account) -> Account:
    if total is None:
        return more
    counts = {
        name: getattr(total, name) + getattr(more, name)
        for name in Account.__struct_fields__
        if isinstance(getattr(more, name), int) and name not in ("schema_version", "partition")
    }
    return Account(stream=total.stream, topic=total.topic, partition=-1, **counts)


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a pipeline file; JSON is YAML too."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document)))
