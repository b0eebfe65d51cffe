"""lookout: a stream to which nobody sends at all, told by the clock.

Of that no record can tell, so this is a report by a timer: the worker that has the lowest partition
of a stream looks at the ends of its topic now and then. A stream is silent if no end has moved for
the limit, by the newest of the log's times and the worker's clock. What is told has an id made of
the ends at which the stream fell silent, so that whoever looks tells of the same incident.

The open incident stands on the storage, from before it is published until a commit shows that its
closing is published. So a worker that takes the partition over closes what another one opened. What
can be told twice, with the same id: an opening by each worker that takes the partition on during
the silence, and a closing that was not known to be published when its worker ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec
import structlog

from agents.incident import incident_id
from agents.publish import Envelope
from agents.times import shown
from connectors.base import Output, Partition
from connectors.kafka.admin import Ends
from connectors.storage import Storage
from schemas.config import SILENCE
from schemas.config import Pipeline as Config
from schemas.errors import EddyError
from schemas.messages import Incident

log = structlog.get_logger(__name__)

LOOK_SECONDS = 20.0

Look = Callable[[str], Ends]
"""Tells where a topic ends."""


class _Told(msgspec.Struct, frozen=True):
    """An open incident, as it stands on the storage."""

    incident_id: str
    offsets: dict[int, int]
    since: int
    noticed: int


@dataclass(slots=True)
class _Course:
    """What was seen of one stream."""

    place: Partition
    topic: str
    limit: int
    open: _Told | None
    said: bool = False
    offsets: Mapping[int, int] | None = None
    seen: int = 0  # when these ends were seen first
    moved: bool = False
    looking: Future[Ends] | None = None


class Lookout:
    """Watches the streams of a configuration that ask for it; lives in the handler's thread.

    Parameters
    ----------
    config
        The pipeline file.
    storage
        Where open incidents are kept.
    envelope
        What wraps messages.
    look
        Asks the broker; called in a thread of its own.
    clock
        Returns ns since 1970 UTC.
    now
        Seconds on a clock that only goes forward; decides when to look.
    every
        Seconds between two looks.
    """

    def __init__(
        self,
        config: Config,
        storage: Storage,
        envelope: Envelope,
        look: Look,
        clock: Callable[[], int],
        now: Callable[[], float],
        every: float = LOOK_SECONDS,
    ) -> None:
        self._config, self._storage, self._envelope = config, storage, envelope
        self._look, self._clock, self._now, self._every = look, clock, now, every
        self._thread = ThreadPoolExecutor(1, "eddy-lookout")
        self._courses: dict[str, _Course] = {}
        self._closing: dict[str, dict[Partition, int]] = {}
        self._due = now()

    def begin(self, partitions: Collection[Partition]) -> None:
        """Take on the streams whose lowest partition is among these, and leave all others.

        Raises
        ------
        SetupError
            If the storage cannot be reached.
        """
        courses = {}
        for name, stream in self._config.streams.items():
            topics, limit = self._envelope.topics, stream.alerts.silence.stream
            topic = stream.source.topic
            place = Partition(topic if stream.key_partitioned else topics.keyed(name), 0)
            if limit is not None and place in partitions:
                courses[name] = _Course(place, topic, int(limit), self._kept(name))
        self._courses = courses
        self._closing.clear()
        self._due = self._now()

    def tick(self, done: Mapping[Partition, int]) -> dict[Partition, list[Output]]:
        """Look if it is time, and return what is to be published.

        ``done`` is up to where records have been processed: when more is committed, what is
        returned here has been published.
        """
        outputs: dict[Partition, list[Output]] = {}
        for name, course in self._courses.items():
            if course.looking is not None and course.looking.done():
                said = self._seen(name, course, dict(done))
                if said:
                    outputs[course.place] = [self._envelope.incident(x) for x in said]
        if self._now() >= self._due:
            self._due = self._now() + self._every
            for course in self._courses.values():
                course.looking = course.looking or self._thread.submit(self._look, course.topic)
        return outputs

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Forget the incidents whose closings these commits show to be published."""
        for name, done in list(self._closing.items()):
            if any(offset > done.get(place, -1) for place, offset in offsets.items()):
                del self._closing[name]
                if self._courses[name].open is None:
                    self._try(partial(self._storage.delete, self._name(name)))

    def stop(self) -> None:
        """Look no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _seen(self, name: str, course: _Course, done: dict[Partition, int]) -> list[Incident]:
        """Judge what was seen."""
        looking, course.looking = course.looking, None
        try:
            ends = looking.result() if looking is not None else None
        except EddyError as error:
            log.warning("cannot look whether a stream is silent", stream=name, why=str(error))
            return []
        if ends is None:
            return []
        clock, said = self._clock(), []
        if course.open is not None and ends.offsets != course.open.offsets:
            said.append(_message(name, course.open, "closed", ends.newest or clock))
            self._closing[name] = done
            course.open = None
        if ends.offsets != course.offsets:
            course.moved = course.offsets is not None
            course.offsets, course.seen, course.said = ends.offsets, clock, False
            return said
        # times may be old that have just come, so that they count only where nothing was seen to
        since = course.seen if course.moved or not ends.newest else min(ends.newest, course.seen)
        if not course.said and (course.open is not None or clock - since >= course.limit):
            course.said = True
            course.open = course.open or self._opened(name, ends, since, clock)
            said.append(_message(name, course.open, "open", course.open.noticed))
        return said

    def _opened(self, name: str, ends: Ends, since: int, clock: int) -> _Told:
        cause = ",".join(f"{number}:{end}" for number, end in sorted(ends.offsets.items()))
        told = _Told(incident_id(name, SILENCE, cause), dict(ends.offsets), since, clock)
        self._closing.pop(name, None)
        self._try(partial(self._storage.write, self._name(name), msgspec.json.encode(told)))
        return told

    def _kept(self, name: str) -> _Told | None:
        path = self._name(name)
        if path not in self._storage.list(path.rpartition("/")[0]):
            return None
        try:
            return msgspec.json.decode(self._storage.read(path), type=_Told)
        except msgspec.MsgspecError as error:
            log.error("not understood, and passed over", name=path, why=str(error))
            return None

    def _name(self, stream: str) -> str:
        return f"silences/{self._config.name}/{stream}.json"

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except EddyError as error:
            log.error("the open silence cannot be kept: its closing may be lost", why=str(error))


def _message(stream: str, told: _Told, state: Literal["open", "closed"], last: int) -> Incident:
    return Incident(
        incident_id=told.incident_id,
        kind="stream_silence",
        state=state,
        severity="high",
        stream=stream,
        route=SILENCE,
        keys=[],
        key_count=0,
        opened_at=told.noticed,
        first_event=told.since,
        last_event=last,
        events=1,
        min_p_value=1.0,
        top=[],
        summary=f"{stream}: nothing has come since {shown(told.since)}",
        revision=int(state == "closed"),
    )
