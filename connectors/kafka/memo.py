"""What a worker keeps with its commits for its successors: facts that no log or storage can tell.

Kafka stores a short text beside every committed offset. In it a worker says where it keeps the
state of the partition, and how many partitions the topic had: a successor that finds another
storage, or another number, would otherwise go on as if nothing had happened.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import structlog

from connectors.base import Partition

__all__ = ["Keeping", "Memos"]

log = structlog.get_logger(__name__)

NOWHERE = ""

# Brokers take 4096 bytes beside an offset, and refuse the whole commit otherwise.
LETTERS = 300


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where a worker keeps the state of its partitions.

    Attributes
    ----------
    storage_id
        What tells the storage from all others, wherever it is seen from; empty without one.
    where
        The storage in words, and the host that sees it so.
    """

    storage_id: str = NOWHERE
    where: str = NOWHERE


class _Memo(msgspec.Struct, frozen=True, omit_defaults=True):
    partitions: int = 0
    storage: str = NOWHERE
    where: str = NOWHERE


class Memos:
    """Writes the memos of one worker, and compares them with those that it finds.

    Parameters
    ----------
    keeping
        Where this worker keeps the state of its partitions.
    """

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = Keeping(_short(keeping.storage_id), keeping.where[:LETTERS])
        self._counts: dict[str, int] = {}
        self._told: set[str] = set()
        # up to where expired records were reported, which stay uncommitted until others follow
        self.reported: dict[Partition, int] = {}

    def of(self, partition: Partition) -> str:
        """Return the text to commit with an offset of a partition."""
        count, keeping = self._counts.get(partition.topic, 0), self._keeping
        return msgspec.json.encode(_Memo(count, keeping.storage_id, keeping.where)).decode()

    def compare(
        self, found: Mapping[Partition, str], counts: Mapping[str, int]
    ) -> dict[str, tuple[int, int]]:
        """Look at the memos of partitions that are taken on.

        Parameters
        ----------
        found
            What was committed with their offsets, by whomever.
        counts
            How many partitions their topics have.

        Returns
        -------
        dict
            For topics of which this is news, the number of partitions before, and the present one;
            for those met first they are the same, unless a memo says otherwise.
        """
        memos = {partition: _read(text) for partition, text in found.items()}
        self._look_for_strangers(memos)
        news = {}
        for topic, now in counts.items():
            before = self._counts.get(topic)
            if before is None:
                # of several memos the latest tells the highest number
                known = (memo.partitions for x, memo in memos.items() if x.topic == topic)
                news[topic] = (max(known, default=0) or now, now)
            elif before != now:
                news[topic] = (before, now)
        self._counts |= counts
        return news

    def _look_for_strangers(self, memos: Mapping[Partition, _Memo]) -> None:
        """Report, once for each of them, other storages that hold the state of partitions."""
        others: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for partition, memo in sorted(memos.items()):
            if memo.storage not in (NOWHERE, self._keeping.storage_id):
                others[memo.storage, memo.where].append(f"{partition.topic}/{partition.number}")
        for (storage_id, where), partitions in others.items():
            if storage_id in self._told or not self._keeping.storage_id:
                continue
            self._told.add(storage_id)
            log.error(
                "another storage holds the state of these partitions: they go on from an older "
                "checkpoint here or, without one, from the last records before the commit; give "
                "all workers one storage (s3://, gs:// or a directory that all hosts share), and "
                "keep it when a worker is replaced",
                partitions=partitions,
                theirs=where,
                ours=self._keeping.where,
            )


def _short(name: str) -> str:
    """Return a name that is short, and as good as the long one for telling it from others."""
    if len(name) <= LETTERS:
        return name
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _read(text: str) -> _Memo:
    """Read a memo; what somebody else has committed tells nothing."""
    try:
        return msgspec.json.decode(text, type=_Memo)
    except msgspec.MsgspecError:
        return _Memo()
