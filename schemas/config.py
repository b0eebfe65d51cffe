"""What a pipeline file may say; :func:`schemas.parse.load_pipeline` reads one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]

SECOND = 1_000_000_000


class Duration(int):
    """A length of time in ns, written ``250ms``, ``30s``, ``15m``, ``12h`` or ``7d``."""


class Size(int):
    """A number of bytes, at least one, written ``512KiB``, ``512MiB`` or ``2GiB``."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown keys are errors."""


class Source(_Strict, frozen=True, kw_only=True):
    """Where a stream's records come from.

    ``pattern`` is for ``lines``: a regular expression with named groups, one per field; the key,
    the time and every declared field must be among them.
    """

    topic: Annotated[str, Meta(min_length=1)]
    format: Literal["json", "arrow", "lines"] = "json"
    pattern: str | None = None


class Time(_Strict, frozen=True, kw_only=True):
    """Event time: a field with its unit or ``strptime`` format; without a field the log's time."""

    field: str | None = None
    unit: Literal["s", "ms", "us", "ns", "iso"] = "ms"
    format: str | None = None


class Field(_Strict, frozen=True, kw_only=True):
    """A field that detectors see.

    ``text`` is a log line whose template becomes a category. ``transform`` is for numbers:
    ``difference`` and ``rate`` (per second) refer to the key's previous record.
    """

    type: Literal["number", "category", "text"]
    transform: Literal["none", "log1p", "difference", "rate"] = "none"
    required: bool = False
    sensitive: bool = False

    @property
    def refers_back(self) -> bool:
        """Whether its value depends on the record before."""
        return self.transform in ("difference", "rate")


class Sliding(_Strict, frozen=True, kw_only=True, tag="sliding", tag_field="kind"):
    """The last ``size`` records of a key in arrival order, every ``stride`` records.

    Emitted from ``min_size`` records on (default: a quarter of ``size``).
    """

    size: Positive = 16
    stride: Positive = 1
    min_size: Positive | None = None

    @property
    def least(self) -> int:
        """Records from which on windows are emitted."""
        return min(self.size, self.min_size or max(1, self.size // 4))


class Tumbling(_Strict, frozen=True, kw_only=True, tag="tumbling", tag_field="kind"):
    """Aggregates over consecutive spans of event time of one key."""

    length: Duration


class Hopping(_Strict, frozen=True, kw_only=True, tag="hopping", tag_field="kind"):
    """Aggregates over spans of event time that start every ``hop``."""

    length: Duration
    hop: Duration


class Session(_Strict, frozen=True, kw_only=True, tag="session", tag_field="kind"):
    """Records of one key without a pause longer than ``gap``, at most ``size`` of them kept.

    With ``id``, a session is all records with one value of that field (and the key's).
    """

    gap: Duration = Duration(300 * SECOND)
    size: Positive = 64
    id: str | None = None


Window = Sliding | Tumbling | Hopping | Session


class Route(_Strict, frozen=True, kw_only=True):
    """A detector for the windows of a stream.

    ``when`` limits the route to windows whose last record has one of the given values.

    With ``update_every`` the model goes on learning: after so many windows that it has scored in a
    partition, a new one is asked for that knows the newer windows too, by ``partial_fit`` where the
    detector can learn more, by a new fit where it cannot.
    """

    detector: str
    name: str | None = None
    settings: dict[str, Any] = {}
    when: dict[str, list[str]] = {}
    update_every: Annotated[int, Meta(ge=1000)] | None = None

    @property
    def label(self) -> str:
        """Name of the route within its stream."""
        return self.name or self.detector


SILENCE = "silence"
"""The route of incidents of silence."""


class Silence(_Strict, frozen=True, kw_only=True):
    """How long nothing may come, before that makes an incident: none at all, or none of a key.

    The whole stream is watched by the clock; a key by what the other keys of its partition send,
    so that it is silent if its newest record is older than the partition's newest by more.
    ``silence: 15m`` is short for ``silence: {stream: 15m}``.
    """

    stream: Duration | None = None
    key: Duration | None = None


class Alerts(_Strict, frozen=True, kw_only=True):
    """How many incidents a day of event time may open, and when one ends.

    Incidents whose newest window is older than ``max_age`` when they are published are marked
    ``stale``, so that a backlog pages nobody.
    """

    budget_per_day: Annotated[float, Meta(gt=0)] = 20.0
    incident_gap: Duration = Duration(600 * SECOND)
    max_age: Duration | None = None
    silence: Silence = Silence()


class Drift(_Strict, frozen=True, kw_only=True):
    """Watching inputs and scores for change.

    ``false_alarm_every`` is the wished-for mean time between false alarms, in windows of a
    partition; ``settle`` how many windows of a partition must have followed the change, so that
    there is something to learn from; ``cooldown`` the least event time between two requests.
    """

    enabled: bool = True
    false_alarm_every: Positive = 1_000_000
    settle: Annotated[int, Meta(ge=0)] = 2_000
    cooldown: Duration = Duration(6 * 3600 * SECOND)


class Emit(_Strict, frozen=True, kw_only=True):
    """Which scored events are published: all, anomalies, or anomalies and a hash sample."""

    mode: Literal["all", "anomalies", "sample"] = "all"
    sample: Share = 0.01


class Stream(_Strict, frozen=True, kw_only=True):
    """One stream: its records, windows, detectors and alerts.

    ``id`` names the field that identifies a record; a record whose id was seen among the last
    ``duplicates_within`` of its partition is dropped. Without it, records are told apart by their
    position and none is ever a duplicate. ``lateness`` is how far the newest event time of its
    partition may be past the end of a window when a record still enters it: the window does not
    wait for that, but is published again with a higher revision. A record later than that is
    counted as late; with ``late: dead_letter`` it is published to the dead letters too.
    """

    source: Source
    key: str
    key_partitioned: bool = True
    id: str | None = None
    duplicates_within: Annotated[int, Meta(ge=0)] = 100_000
    time: Time = Time()
    fields: dict[str, Field]
    derive: list[Literal["gap", "time_of_day"]] = []
    window: Window = Sliding()
    lateness: Duration = Duration(0)
    late: Literal["count", "dead_letter"] = "count"
    routes: Annotated[list[Route], Meta(min_length=1)] = msgspec.field(name="detectors")
    alerts: Alerts = Alerts()
    drift: Drift = Drift()
    emit: Emit = Emit()
    archive: bool = True

    def of_type(self, kind: str) -> list[str]:
        """Names of the fields of a type, in declared order."""
        return [name for name, field in self.fields.items() if field.type == kind]


class Kafka(_Strict, frozen=True, kw_only=True):
    """Connection to Kafka.

    ``settings`` are passed to the clients: ``security_protocol``, ``ssl_cafile``,
    ``ssl_certfile``, ``ssl_keyfile``, ``sasl_mechanism``, ``sasl_plain_username``,
    ``sasl_plain_password``. A value ``${NAME}`` is read from the environment.
    """

    bootstrap: str = "127.0.0.1:9092"
    settings: dict[str, str] = {}
    replication: Positive = 1


class Scoring(_Strict, frozen=True, kw_only=True):
    """A batch of windows closes at ``batch`` windows or ``deadline`` after its oldest record."""

    batch: Positive = 8192
    deadline: Duration = Duration(10_000_000)
    device: str = "auto"


class Limits(_Strict, frozen=True, kw_only=True):
    """Bounds on what a producer can do to the worker.

    A message, a key, an id or a session id beyond its bound is a dead letter; of a line, a text or
    a category only the beginning is read.
    """

    message_bytes: Positive = 1_048_576
    key_bytes: Positive = 1_024
    line_bytes: Positive = 16_384
    dead_letter_bytes: Positive = 4_096
    text_bytes: Positive = 4_096
    max_future: Duration = Duration(3600 * SECOND)


class State(_Strict, frozen=True, kw_only=True):
    """Memory for what a worker knows of each key, divided over the partitions that it has.

    Keys beyond that wait on the local disk, those that were idle longest first, and come back with
    their windows; no output depends on it. ``spill`` is a directory for them (default: among the
    temporary files of the system); what a crashed worker leaves there is of no use to anyone.
    Open windows of event time, and the keys of a fetch, stay in memory, within ``memory`` or not.
    """

    memory: Size = Size(2 * 1024**3)
    spill: str | None = None


class Checkpoints(_Strict, frozen=True, kw_only=True):
    """The state of each partition is kept on the storage, to go on from after a restart.

    ``every`` is the time between two checkpoints of a partition, ``keep`` how many stay. Where
    there is none, a partition reads the last ``rewind`` records before its commit again to fill
    its windows.
    """

    every: Duration = Duration(10 * SECOND)
    keep: Positive = 3
    rewind: NotNegative = 10_000


class Pipeline(_Strict, frozen=True, kw_only=True):
    """A whole deployment: ``name`` is its consumer group and the prefix of its own topics.

    ``delivery`` says what a crash does to the outputs of the worker. ``at_least_once`` publishes
    some again, with the same ids. ``exactly_once`` writes them and the offsets in transactions:
    who reads with ``isolation.level=read_committed`` finds each once, somewhat later.
    """

    name: str = "eddy"
    kafka: Kafka = Kafka()
    storage: str = ".eddy"
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    partitions: Positive = 4
    scoring: Scoring = Scoring()
    limits: Limits = Limits()
    state: State = State()
    checkpoints: Checkpoints = Checkpoints()
    streams: dict[str, Stream]
