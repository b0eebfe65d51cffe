"""The messages that Eddy publishes and reads; JSON on the wire, times in ns since 1970 UTC.

Adding an optional field is compatible, as is a value that comes only of a new setting; anything
else raises ``SCHEMA_VERSION``. A reader takes its own version and the one before.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from schemas.errors import ConfigError
from schemas.nearest import nearest

SCHEMA_VERSION = 1

Reason = Literal[
    "empty",
    "too_large",
    "not_utf8",
    "not_json",
    "not_arrow",
    "no_match",
    "wrong_type",
    "missing_key",
    "missing_time",
    "missing_required",
    "bad_time",
    "future_time",
    "late",
]
Trigger = Literal["drift", "age", "labels", "missing", "manual"]
Stage = Literal[
    "requested", "training", "candidate", "shadow", "champion", "rejected", "retired", "rolled_back"
]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What every message carries."""

    schema_version: int = SCHEMA_VERSION


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """The part that one field at one step has in a score.

    Attributes
    ----------
    field
        Name of the field or derived feature.
    step
        Step of the window, counted from its first record.
    share
        Part of the whole, 0 to 1.
    observed, expected
        Value seen, and value that the detector predicts, where it predicts one: without the
        logarithm of ``log1p``, of ``gap`` (seconds), and of the number of records in an aggregate;
        after any other transform. The mean of logarithms is told as the size that has it.
    """

    field: str
    step: int
    share: float
    observed: float | str | None = None
    expected: float | None = None


class ScoredEvent(Message, frozen=True, kw_only=True):
    """A scored window.

    ``event_id`` is a hash of stream, route, window specification, key and window identity, so a
    window scored twice has the same one; ``revision`` tells the later verdict. What is
    ``retracted`` is no window any more: late records made it part of another.
    ``p_value`` is the chance of a score at least this high for a normal window;
    ``is_anomaly`` is ``p_value <= threshold``, and false of what is retracted. ``spoke`` tells
    whether the key's own level of scores was used or the population's. ``latency_ns`` runs from
    the log's time of the last record to scoring; ``event_latency_ns`` from its event time.
    """

    event_id: str
    revision: int = 0
    retracted: bool = False
    stream: str
    route: str
    key: str | None
    window_start: int
    window_end: int
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    records: int
    score: float
    p_value: float
    threshold: float
    is_anomaly: bool
    detector: str
    model_id: str
    spoke: Literal["own", "population"] = "population"
    contributions: list[Contribution] = []
    incident_id: str | None = None
    processed_at: int
    latency_ns: int
    event_latency_ns: int


class Incident(Message, frozen=True, kw_only=True):
    """Anomalous windows that belong together: what a person is alerted of.

    They are of one key, or of many keys that became odd for the same reason at the same time;
    ``keys`` names the first hundred of the ``key_count``, which counts up to 10,000. ``stale``
    tells that its newest window was older than the stream's ``alerts.max_age`` when this was
    published: it is no news, and should page nobody. What is ``closed`` is never stale. It depends
    on the clock, as ``processed_at`` does.

    ``revision`` counts what was told of it, from 0. Where messages may be repeated, by a worker
    that was frozen, say, and wakes up, the one with the highest revision is what holds.

    Of another ``kind`` are those of keys, or a whole stream, that have stopped sending. Their
    route is ``silence``; ``first_event`` is when the last record came, ``last_event`` when that was
    noticed or a record came again, and there is no p-value: it is given as 1.
    """

    incident_id: str
    state: Literal["open", "updated", "closed"]
    severity: Literal["low", "medium", "high"]
    stream: str
    route: str
    keys: list[str]
    key_count: int = 1
    opened_at: int
    first_event: int
    last_event: int
    events: int
    min_p_value: float
    top: list[Contribution]
    summary: str
    stale: bool = False
    kind: Literal["anomaly", "key_silence", "stream_silence"] = "anomaly"
    revision: int = 0


class RetrainRequest(Message, frozen=True, kw_only=True):
    """A wish for a new model; equal wishes have equal ``request_id``.

    ``changed_at`` is the event time since when the stream seems to have been another, if that is
    the reason. ``statistic`` and ``threshold`` are then the level of a score or of a feature (after
    its transform) now, and as it used to be; ``detail`` tells both in the units of the records.
    """

    request_id: str
    stream: str
    route: str
    reason: Trigger
    detail: str
    statistic: float | None = None
    threshold: float | None = None
    data_from: int
    data_to: int
    changed_at: int | None = None
    model_id: str | None
    requested_at: int


class DeadLetter(Message, frozen=True, kw_only=True):
    """A record that could not be used, and why; ``original`` is cut at a configured length."""

    stream: str
    reason: Reason
    detail: str
    topic: str
    partition: int
    offset: int
    original: bytes
    original_size: int


class Label(Message, frozen=True, kw_only=True):
    """An analyst's verdict on an event, a window or a session."""

    event_id: str
    verdict: Literal["anomaly", "normal", "retract"]
    target: Literal["event", "window", "session"] = "event"
    label_class: str | None = None
    confidence: float = 1.0
    source: Literal["analyst", "rule", "system"] = "analyst"
    created_at: int


class Account(Message, frozen=True, kw_only=True):
    """Where the records of a partition went: ``records_in`` is the sum of the five fates.

    Each window counts once, however often it is revised; ``revisions`` counts how often windows
    were published again.
    """

    stream: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    records_in: int
    windowed: int
    late: int
    duplicate: int
    dead_letter: int
    filtered: int
    windows: int
    scored: int
    unscored: int
    anomalies: int
    incidents: int
    suppressed: int
    revisions: int = 0


class ModelEvent(Message, frozen=True, kw_only=True):
    """A step in the life of a model of one route."""

    stream: str
    route: str
    stage: Stage
    artefact_id: str
    uri: str
    parent_id: str | None = None
    request_id: str | None = None
    metrics: dict[str, float] = {}
    why: str = ""
    at: int


MESSAGES: dict[str, type[Message]] = {
    cls.__name__: cls
    for cls in (
        ScoredEvent,
        Incident,
        RetrainRequest,
        DeadLetter,
        Label,
        Account,
        ModelEvent,
    )
}

M = TypeVar("M", bound=Message)
encode = msgspec.json.Encoder().encode


def decode(data: bytes, kind: type[M]) -> M:
    """Read a message of ``kind``.

    Raises
    ------
    msgspec.ValidationError
        If it is not one, or of a version that this reader does not know.
    """
    message = msgspec.json.decode(data, type=kind)
    if not SCHEMA_VERSION - 1 <= message.schema_version <= SCHEMA_VERSION:
        msg = f"{kind.__name__}: schema_version {message.schema_version}, expected {SCHEMA_VERSION}"
        raise msgspec.ValidationError(msg)
    return message


def json_schema(name: str) -> dict[str, Any]:
    """JSON Schema of the message ``name``.

    Raises
    ------
    ConfigError
        If there is no such message.
    """
    if name not in MESSAGES:
        msg = f"no message {name!r}{nearest(name, MESSAGES)}; there are {', '.join(MESSAGES)}"
        raise ConfigError(msg)
    return msgspec.json.schema(MESSAGES[name])
