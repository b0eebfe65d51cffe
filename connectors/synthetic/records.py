"""Streams of independent records: normal ones by an entity's habits, episodes merged in by time.

Times and owners of the whole stream are drawn first (16 bytes a record); fields follow in blocks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from connectors.synthetic.base import KINDS, LAST_SHARE, Episode, Generated, Generator, Kind
from connectors.synthetic.rhythm import DAY_NS, HOUR_NS, MILLISECOND_NS, arrivals

__all__ = ["Columns", "RecordGenerator", "pick"]

Columns = dict[str, NDArray[Any]]
"""Equally long arrays; always among them ``time`` (ns), ``entity``, ``label`` and ``episode``."""

BLOCK = 16_384

HABITS, PLAN, STREAM = 1, 2, 3  # purposes of random generators


def pick(rng: np.random.Generator, cumulative: NDArray[np.float64]) -> NDArray[np.int64]:
    """Draw one of ``k`` choices per row, given cumulative probabilities ``[n, k]``."""
    chance = rng.random(len(cumulative))[:, None]
    return np.asarray((chance >= cumulative[:, :-1]).sum(axis=1), np.int64)


class RecordGenerator(Generator):
    """A stream in which a record depends on its entity's habits and the time alone."""

    per_day: ClassVar[float]
    """Mean records of an entity in a day."""

    regularity: ClassVar[float]
    """How even the gaps between an entity's records are, see :func:`arrivals`."""

    def _prepare(self) -> None:
        rng = self._rng(HABITS)
        activity = self._habits(rng)
        self._times, self._owners = arrivals(
            rng,
            activity,
            self.per_day * self.entities,
            self.regularity,
            self.start_ns,
            self.records,
        )
        if self.drift_at is not None and self.records:
            last = self.records - 1
            self.drift_ns = int(self._times[round(self.drift_at * last)])
        self._names = [self._key(entity) for entity in range(self.entities)]
        self._injected = self._inject(self._rng(PLAN))
        self._normal_records = self.records - len(self._injected["time"])
        if self._normal_records < self.anomaly_episodes:
            raise self._too_short()

    @abstractmethod
    def _habits(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw what is normal for each entity; return ``[24, entities]`` how active it is when."""

    @abstractmethod
    def _key(self, entity: int) -> str:
        """Name an entity."""

    @abstractmethod
    def _quiet_hour(self, entity: int) -> float:
        """Return the hour in which an entity is least active."""

    @abstractmethod
    def _normal(
        self, rng: np.random.Generator, entity: NDArray[np.int64], times: NDArray[np.int64]
    ) -> Columns:
        """Draw the fields of normal records of the entities at the times."""

    @abstractmethod
    def _abnormal(
        self, rng: np.random.Generator, kind: Kind, turn: int, entity: int, at_ns: int
    ) -> tuple[str, Columns]:
        """Draw an episode's name and records; ``turn`` counts the episodes of the kind."""

    @abstractmethod
    def _encode(self, columns: Columns, first: int) -> list[bytes]:
        """Write records as JSON; ``first`` is the number of the first one in the stream."""

    def _inject(self, rng: np.random.Generator) -> Columns:
        """Draw all episodes, and return their records in the order of time."""
        shares = rng.uniform(self.anomalies_from, LAST_SHARE, self.anomaly_episodes)
        near = (shares * self.records).astype(np.int64).clip(max=max(0, self.records - 1))
        parts = [_marked(self._normal(rng, np.zeros(0, np.int64), np.zeros(0, np.int64)), -1)]
        entities: list[int] = []
        for index, at_ns in enumerate(self._times[near].tolist() if self.records else ()):
            if not entities:  # no entity has a second episode before all had one
                entities = rng.permutation(self.entities).tolist()
            entity = entities.pop()
            kind = KINDS[index % len(KINDS)]
            if kind == "contextual":
                at_ns = _at_hour(
                    self._quiet_hour(entity), at_ns, self.start_ns, int(self._times[-1])
                )
            name, columns = self._abnormal(rng, kind, index // len(KINDS), entity, at_ns)
            parts.append(_marked(columns, index))
            first, last = columns["time"].min().item(), columns["time"].max().item()
            self.episodes.append(
                Episode(index, kind, name, self._names[entity], first, last, len(columns["time"]))
            )
        return _in_order(parts)

    def _blocks(self) -> Iterator[Generated]:
        rng = self._rng(STREAM)
        begun = 0  # injected records that are out
        for first in range(0, self._normal_records, BLOCK):
            count = min(BLOCK, self._normal_records - first)
            rows = slice(first, first + count)
            times = self._times[rows]
            normal = _marked(self._normal(rng, self._owners[rows], times), -1)
            if first + count < self._normal_records:
                due = int(np.searchsorted(self._injected["time"], times[-1], side="right"))
            else:
                due = len(self._injected["time"])
            abnormal = {name: values[begun:due] for name, values in self._injected.items()}
            yield self._generated(_in_order([normal, abnormal]), first + begun)
            begun = due

    def _generated(self, columns: Columns, first: int) -> Generated:
        keys = [name.encode() for name in self._names]
        return Generated(
            self._encode(columns, first),
            [keys[entity] for entity in columns["entity"].tolist()],
            columns["time"],
            columns["label"],
            columns["episode"],
        )


def _marked(columns: Columns, episode: int) -> Columns:
    """Add the label and the episode to records."""
    count = len(columns["time"])
    return {
        **columns,
        "label": np.full(count, episode >= 0, np.int8),
        "episode": np.full(count, episode, np.int32),
    }


def _in_order(parts: list[Columns]) -> Columns:
    """Join records in the order of time; at equal times the earlier part comes first."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(joined["time"], kind="stable")
    return {name: values[order] for name, values in joined.items()}


def _at_hour(hour: float, near_ns: int, start_ns: int, end_ns: int) -> int:
    """Return a time near another at which it is so many hours past midnight UTC.

    It is the next one, or if the stream is over by then, the one before.
    """
    at = near_ns - near_ns % DAY_NS + int(hour % 24 * HOUR_NS)
    at -= at % MILLISECOND_NS
    if at < near_ns:
        at += DAY_NS
    return at - DAY_NS if at > end_ns and at - DAY_NS >= start_ns else at
