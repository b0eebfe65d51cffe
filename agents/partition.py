"""The state of one partition of one stream, and the steps that need nothing but it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.account import Ledger, RecentIds
from agents.decide import Decider
from agents.decode import Decoder
from agents.encode import Encoder, feature_names
from agents.incident import IncidentBook
from agents.keys import KeyTable, group
from agents.records import Ints, Records
from agents.repeats import Repeats
from agents.residents import Residents, Traffic
from agents.revise import Told
from agents.room import Room
from agents.silence import Silence
from agents.silences import Silences
from agents.snapshot import State
from agents.stale import Staleness
from agents.templates import code_of
from agents.watch import Watcher
from agents.window import Windows, make_windower
from connectors.base import Fetch, Partition
from connectors.spill import SpillSpace
from detectors.model import Model
from schemas.config import Route, Stream
from schemas.messages import DeadLetter, Incident


@dataclass(frozen=True, slots=True)
class Ingested:
    """What a fetch led to before any model was asked."""

    records: Records
    windows: Windows
    dead_letters: list[DeadLetter]
    accepted: NDArray[np.bool_]
    silences: list[Incident]


class RouteState:
    """What one route has learned of one partition: calibration, drift, incidents.

    ``model`` is the one that speaks in this partition; while a new one takes over partition by
    partition, another may speak in the others. History is not ``live``: nothing in it is stale.
    """

    def __init__(
        self, name: str, route: Route, stream: Stream, partitions: int, *, live: bool
    ) -> None:
        age = stream.alerts.max_age
        max_age = None if age is None or not live else int(age)
        self._stream, self._partitions = stream, partitions
        self._update_every = route.update_every
        self._per_day = stream.alerts.budget_per_day / partitions
        gap = int(stream.alerts.incident_gap)
        self.incidents = IncidentBook(name, route.label, self._per_day, gap)
        self.staleness = Staleness(max_age)
        self.told = Told()
        self.newest = -(2**62)
        self.unscored = 0
        self.spoken = 0
        self.model: Model | None = None
        self.templates: dict[int, str] = {}
        self.decider: Decider
        self.watcher: Watcher

    def follow(self, model: Model) -> None:
        """Take the calibration of a model that begins to speak; open incidents go on."""
        if self.model is not None and model.model_id == self.model.model_id:
            return
        self.model, self.spoken = model, 0
        rate = model.description.windows_per_day / self._partitions
        self.templates = {code_of(text): text for text in model.description.templates}
        self.decider = Decider(model.calibration, rate, self._per_day)
        self.watcher = Watcher(self._stream.drift, model)

    def due(self, count: int) -> list[int]:
        """Count windows that the model has scored; say after which of them it is due for an update.

        It is due at fixed counts, however the windows came together.
        """
        before = self.spoken
        self.spoken += count
        if self._update_every is None:
            return []
        first = self._update_every - before % self._update_every
        return list(range(first - 1, count, self._update_every))

    def state(self) -> State:
        """Copy the state."""
        judged = self.model is not None
        return {
            "newest": self.newest,
            "unscored": self.unscored,
            "spoken": self.spoken,
            "incidents": self.incidents.state(),
            "told": self.told.state(),
            "staleness": self.staleness.state(),
            "decider": self.decider.state() if judged else None,
            "watcher": self.watcher.state() if judged else None,
        }

    def restore(self, state: State) -> None:
        """Go on from a state; it already follows the model that spoke then."""
        self.newest, self.unscored = state["newest"], state["unscored"]
        self.spoken = state.get("spoken", 0)  # checkpoints of before
        self.incidents.restore(state["incidents"])
        self.told.restore(state["told"])
        self.staleness.restore(state.get("staleness", {"told": []}))  # checkpoints of before
        if self.model is not None:
            self.decider.restore(state["decider"])
            self.watcher.restore(state["watcher"])


class PartitionState:
    """All state that the outputs of one partition depend on.

    It is a function of the partition's records in offset order, and of the models that were made
    to speak at recorded offsets: never of a clock, of how records were fetched, or of what else
    the worker holds, or how much memory it has.
    """

    def __init__(
        self,
        name: str,
        stream: Stream,
        partition: Partition,
        decoder: Decoder,
        partitions: int,
        space: SpillSpace,
        traffic: Traffic,
        *,
        live: bool = True,
    ) -> None:
        self.name, self.stream, self.partition = name, stream, partition
        self.ledger = Ledger()
        self.encoder = Encoder(stream)
        self.routes = {
            route.label: RouteState(name, route, stream, partitions, live=live)
            for route in stream.routes
        }
        self.silence: Silence | None = None
        if stream.alerts.silence.key is not None:
            per_day = stream.alerts.budget_per_day / partitions
            self.silence = Silence(name, int(stream.alerts.silence.key), per_day)
        age = stream.alerts.max_age
        self.staleness = Staleness(None if age is None or not live else int(age))
        self.first_time: int | None = None
        numbers, categories = feature_names(stream)
        self.windower = make_windower(stream, len(numbers), len(categories))
        self._decoder = decoder
        self.keys = Residents(self.encoder, self.windower, space, traffic)
        if stream.key == "none":
            self.keys.slots([""])  # the one that all records have
        self._recent = RecentIds(stream.duplicates_within) if stream.id else None
        rekeyed = partition.topic != stream.source.topic
        self._repeats = Repeats(stream.source.topic) if rekeyed else None

    def follow(self, route: str, model: Model) -> None:
        """Let a model speak for a route from the next window on."""
        self.routes[route].follow(model)
        for other in self.routes.values():
            if other.model is not None and other.model.description.templates:
                self.encoder.use_templates(other.model.description.templates)

    def state(self, room: Room) -> State:
        """Copy the state, what is large of it into a room; the models are not part of it.

        ``spill`` is the :class:`connectors.spill.SpillCopy` of keys that are not in memory.
        """
        return {
            "first_time": self.first_time,
            "ledger": self.ledger.state(),
            "keys": self.keys.state(room),
            "spill": self.keys.copy(),
            "recent": None if self._recent is None else self._recent.state(),
            "repeats": None if self._repeats is None else self._repeats.state(),
            "windower": self.windower.state(),
            "routes": {label: route.state() for label, route in self.routes.items()},
            "silence": None if self.silence is None else self.silence.state(),
            "staleness": self.staleness.state(),
        }

    def restore(self, state: State, models: Mapping[str, Model], routes: Collection[str]) -> None:
        """Go on from a state that was made with ``models``, by route; other ``routes`` are new."""
        self.first_time = state["first_time"]
        self.ledger.restore(state["ledger"])
        self.keys.restore(state["keys"], state["spill"])
        if self._recent is not None:
            self._recent.restore(state["recent"])
        if self._repeats is not None:
            self._repeats.restore(state["repeats"])
        self.windower.restore(state["windower"], self.keys.find)
        for label, model in models.items():
            self.follow(label, model)
        for label in routes:
            self.routes[label].restore(state["routes"][label])
        # what checkpoints of before, or of another setting, do not have begins anew
        if self.silence is not None and state.get("silence") is not None:
            self.silence.restore(state["silence"])
        self.staleness.restore(state.get("staleness", {"told": []}))

    def ingest(self, fetch: Fetch) -> Ingested:
        """Decode, encode and window the records of a fetch."""
        ledger = self.ledger
        if len(fetch) and ledger.first_offset < 0:
            ledger.first_offset = int(fetch.offsets[0])
        if len(fetch):
            ledger.last_offset = int(fetch.offsets[-1])
        if self._repeats is not None:
            # before decoding: a message is one record here, however many it holds
            count, fetch = len(fetch), self._repeats.drop(fetch)
            ledger.records_in += count - len(fetch)
            ledger.duplicate += count - len(fetch)
        decoded = self._decoder(fetch)
        records = decoded.records
        ledger.records_in += decoded.records_in
        ledger.filtered += decoded.filtered
        ledger.dead_letter += len(decoded.dead_letters)
        if self._recent is not None and records.ids is not None:
            fresh = np.array([self._recent.fresh(i) for i in records.ids], dtype=bool)
            ledger.duplicate += len(records) - int(fresh.sum())
            records = records.select(fresh)
        if len(records) and self.first_time is None:
            self.first_time = int(records.time[0])
        groups = group(self._slots(records))
        silences = [] if self.silence is None else self.silence.add(records, groups)
        features = self.encoder(records, groups)
        added = self.windower.add(records, features, groups)
        late = int(added.late.sum())
        ledger.late += late
        ledger.windowed += len(records) - late
        letters = decoded.dead_letters
        if late and self.stream.late == "dead_letter" and added.behind is not None:
            which = np.flatnonzero(added.late)
            offsets, behind = records.offset[which], added.behind[which]
            letters = letters + self._decoder.late(fetch, offsets, behind)
        return Ingested(records, self._counted(added.windows), letters, ~added.late, silences)

    def count_incidents(self) -> None:
        """Bring the account's numbers of incidents up to date."""
        books: list[IncidentBook | Silences] = [x.incidents for x in self.routes.values()]
        if self.silence is not None:
            books.append(self.silence.silences)
        self.ledger.incidents = sum(book.opened for book in books)
        self.ledger.suppressed = sum(book.suppressed for book in books)

    def finish(self) -> Windows:
        """Close all open windows: the input has ended."""
        return self._counted(self.windower.finish())

    def nbytes(self) -> int:
        """Bytes in memory of what is known of keys, open windows included."""
        return self.keys.nbytes + self.windower.nbytes() - self.windower.rows.nbytes

    def _slots(self, records: Records) -> Ints:
        """Return the slots of the records' keys."""
        if self.stream.key == "none":
            return np.zeros(len(records), dtype=np.int64)
        if self.windower.by_slot or self.encoder.rows.width:
            return self.keys.slots(records.key)
        return KeyTable().assign(records.key)  # nothing is known of keys between fetches

    def _counted(self, windows: Windows) -> Windows:
        again = 0 if windows.revised is None else int(windows.revised.sum())
        self.ledger.windows += len(windows) - again
        self.ledger.revisions += again
        return windows
