"""What all generated streams share: sizes, episodes of anomalies, and chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError

__all__ = ["KINDS", "START_NS", "Episode", "Generated", "Generator", "Kind"]

Kind = Literal["point", "contextual", "group"]
KINDS: tuple[Kind, ...] = ("point", "contextual", "group")

START_NS = 1_704_067_200_000_000_000  # 2024-01-01, midnight UTC

# Episodes begin before this share of the stream, so that they end within it.
LAST_SHARE = 0.95

RECORDS_PER_EPISODE = 200  # with as many, all episodes surely fit


@dataclass(frozen=True, slots=True)
class Episode:
    """One injected anomaly: labelled records of one key that belong together.

    Attributes
    ----------
    index
        Its number, which its records carry.
    kind
        ``point``: a record that is odd by itself; ``contextual``: ordinary values at the wrong
        time, place or position; ``group``: records that are odd only in their number.
    name
        What happens, for example ``card_testing``.
    key
        Key of its records.
    start_ns, end_ns
        Event times of its first and last record.
    records
        Number of its records.
    """

    index: int
    kind: Kind
    name: str
    key: str
    start_ns: int
    end_ns: int
    records: int


@dataclass(frozen=True, slots=True)
class Generated:
    """Consecutive messages of a generated stream.

    Attributes
    ----------
    values, keys
        ``n`` messages as they go over the wire, and their keys.
    times
        ``[n]`` event times in ns since 1970 UTC, whole milliseconds, not decreasing.
    labels
        ``[n]`` 1 for a record of an episode, else 0.
    episode
        ``[n]`` index of the episode, or -1.
    """

    values: list[bytes]
    keys: list[bytes]
    times: NDArray[np.int64]
    labels: NDArray[np.int8]
    episode: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Generated:
        """Cut out consecutive messages."""
        return Generated(
            self.values[rows],
            self.keys[rows],
            self.times[rows],
            self.labels[rows],
            self.episode[rows],
        )

    def __add__(self, other: Generated) -> Generated:
        """Join with the messages that follow."""
        return Generated(
            self.values + other.values,
            self.keys + other.keys,
            np.concatenate([self.times, other.times]),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.episode, other.episode]),
        )


class Generator(ABC):
    """A stream of a given number of messages, the same each time it is generated.

    Parameters
    ----------
    seed
        Equal seeds and sizes give equal streams.
    records
        Number of messages, those of the episodes included.
    start_ns
        Event time at which the stream begins, ns since 1970 UTC; the daily rhythm follows UTC.
    entities
        Number of cards or hosts; by default the class's.
    anomaly_episodes
        Number of episodes; kinds take turns.
    anomalies_from
        Share of the stream before which there is no episode.
    drift_at
        Share of the stream at which the normal behaviour changes for good; by default never.

    Attributes
    ----------
    episodes
        The episodes, in the order of their index.
    drift_ns
        Event time of the change, or ``None``.

    Raises
    ------
    DataError
        If a size is out of range, or the episodes do not fit into the stream.
    """

    name: ClassVar[str]
    default_entities: ClassVar[int]

    def __init__(
        self,
        seed: int = 0,
        records: int = 100_000,
        start_ns: int = START_NS,
        entities: int | None = None,
        anomaly_episodes: int = 30,
        anomalies_from: float = 0.2,
        drift_at: float | None = None,
    ) -> None:
        self.seed = seed
        self.records = records
        self.start_ns = start_ns
        self.entities = self.default_entities if entities is None else entities
        self.anomaly_episodes = anomaly_episodes
        self.anomalies_from = anomalies_from
        self.drift_at = drift_at
        self.drift_ns: int | None = None
        self.episodes: list[Episode] = []
        self._check()
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Plan the stream: set ``episodes`` and ``drift_ns``, and what :meth:`_blocks` needs."""

    @abstractmethod
    def _blocks(self) -> Iterator[Generated]:
        """Yield the whole stream in pieces whose lengths depend on nothing but the sizes."""

    def generate(self, chunk: int = 8192) -> Iterator[Generated]:
        """Yield the stream in chunks of ``chunk`` messages; the last may be shorter."""
        waiting: Generated | None = None
        for block in self._blocks():
            waiting = block if waiting is None else waiting + block
            whole = len(waiting) - len(waiting) % chunk
            for start in range(0, whole, chunk):
                yield waiting[start : start + chunk]
            waiting = waiting[whole:]
        if waiting is not None and len(waiting):
            yield waiting

    def _check(self) -> None:
        for name, least, most in (
            ("records", 0, None),
            ("entities", 1, None),
            ("anomaly_episodes", 0, None),
            ("anomalies_from", 0.0, LAST_SHARE),
            ("drift_at", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and (value < least or (most is not None and value > most)):
                upper = "" if most is None else f" and at most {most}"
                msg = f"{self.name}: {name} is {value}; give at least {least}{upper}"
                raise DataError(msg)

    def _too_short(self) -> DataError:
        msg = (
            f"{self.name}: {self.anomaly_episodes} episodes do not fit into {self.records} "
            f"records; give {RECORDS_PER_EPISODE} records for each, or fewer episodes"
        )
        return DataError(msg)

    def _rng(self, *purpose: int) -> np.random.Generator:
        """Return a random generator of its own for a purpose, so that none disturbs another."""
        return np.random.default_rng([self.seed, *purpose])

    def _drifted(self, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which times are after the change."""
        if self.drift_ns is None:
            return np.zeros(len(times), bool)
        return times >= self.drift_ns
