"""Where checkpoints are on a storage: one file each, never overwritten, found by offset.

A checkpoint is the state of one partition before some offset. What it holds is for others to say,
and to check; here it is bytes under a name that tells where they belong::

    checkpoints/<cluster>/<topic>/<topic id>/<partition>/
        <offset>-<generation>-<writer>-<number>-v<version>

The version is that of the format of what it holds. During a rolling upgrade two versions of Eddy
share a group: the older one leaves the files of the newer one alone, and the newer one may read
those of the older. What several checkpoints share are segments beside them
(:mod:`connectors.segments`); each begins with the names of those that it needs.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from connectors.base import Partition
from connectors.segments import Segments, framed, needed, unframed
from connectors.storage import Storage
from schemas.errors import DataError

__all__ = ["Checkpoint", "Checkpoints", "Place"]

log = structlog.get_logger(__name__)

FOLDER = "checkpoints"
KEEP = 3

PART = re.compile(r"[A-Za-z0-9._-]+")
NAME = re.compile(r"(\d{20})-(\d{10})-([0-9a-f]{16})-(\d{10})(?:-v(\d+))?")


class Place(NamedTuple):
    """A partition of one incarnation of a topic: made again, it has another ``topic_id``."""

    partition: Partition
    topic_id: str


@dataclass(frozen=True, slots=True, order=True)
class _File:
    """What a name tells; ordered as the names are, the newest last."""

    offset: int
    generation: int
    writer: str
    number: int
    version: int
    name: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was found.

    Attributes
    ----------
    name
        Name of its file.
    offset
        Everything before it is in the state.
    generation, writer
        The group's generation in which it was written, and the process that wrote it.
    data
        Its bytes.
    """

    name: str
    offset: int
    generation: int
    writer: str
    data: bytes


class Checkpoints:
    """The checkpoints of one cluster's partitions; may be used from several threads.

    Names are unique without asking the storage: every object of this class draws a random
    ``writer`` and numbers what it writes.

    Parameters
    ----------
    storage
        Where the files are.
    cluster
        Id of the cluster: the same topic on another one has other records.
    version
        Version of the format of what is written. Files of later versions count as not there: a
        later Eddy's, whose state nobody else can read or judge.

    Notes
    -----
    Write a checkpoint when its offset is committed. Then whatever a crashed or fenced writer
    leaves is true: the offset was reached by the owner of that generation, and all later owners
    begin at or above it. What was written without, or before the offsets were set back, may tell
    of a history that was never published, for example with another model. It is known by a file
    that was written later at a lower offset (by a later generation, or by the same writer), and
    is left out.
    """

    def __init__(self, storage: Storage, cluster: str, version: int = 1) -> None:
        self.writer = uuid.uuid4().hex[:16]
        self._storage = storage
        self._cluster = _part(cluster)
        self._version = version
        self._numbers = itertools.count()
        self.segments = Segments(storage, self.writer)
        self._needs: dict[str, set[str]] = {}  # the segments of files, by name
        # names of files that are known to be whole, by partition
        self._good: dict[Place, set[str]] = {}
        self._looked: set[tuple[str, str]] = set()

    def write(
        self,
        place: Place,
        offset: int,
        generation: int,
        data: bytes | Sequence[bytes],
        needs: Iterable[str] = (),
    ) -> str:
        """Write a checkpoint under a name of its own; return the name.

        One partition's checkpoints are to be written in the order of its records.

        Parameters
        ----------
        place
            The partition.
        offset
            Everything before it is in the state; at least 0.
        generation
            The group's generation in which the partition is ours; at least 0.
        data
            The state, in one piece or several.
        needs
            Names of the segments that belong to it; they are on the storage.

        Raises
        ------
        SetupError
            If the storage does not take it; then there is nothing under the name.
        """
        if offset < 0 or generation < 0:
            msg = f"offset {offset} and generation {generation} of a checkpoint are at least 0"
            raise ValueError(msg)
        number = next(self._numbers)
        own = f"{offset:020d}-{generation:010d}-{self.writer}-{number:010d}-v{self._version}"
        name, needs = f"{self.folder(place)}/{own}", set(needs)
        self._storage.write(name, framed(data, needs))
        self._needs[name] = needs
        self._good.setdefault(place, set()).add(name)
        return name

    def candidates(self, place: Place, at_most: int) -> Iterator[Checkpoint]:
        """Yield the checkpoints from which a partition can be restored, the best first.

        The newest offset comes first, at one offset the latest generation. Bytes are read one
        checkpoint at a time, when it is asked for; a file that is gone by then is passed over.
        Whoever finds one to be whole should :meth:`confirm` it.

        Parameters
        ----------
        place
            The partition.
        at_most
            The committed offset: a state beyond it would leave out records in between.

        Raises
        ------
        SetupError
            If the storage cannot be reached. It is no reason to begin with an older checkpoint.
        """
        self._look_for_others(place)
        folder = self.folder(place)
        files = _files(folder, self._storage.list(folder))
        self._look_for_later(files, at_most)
        for file in reversed(_one_history(self._ours(files))):
            if file.offset > at_most:
                continue
            try:
                data = unframed(self._storage.read(file.name))
            except DataError:
                continue  # pruned meanwhile: its owner has newer ones
            yield Checkpoint(file.name, file.offset, file.generation, file.writer, data)

    def names(self, place: Place) -> set[str]:
        """Return the names that a partition's files have in its folder.

        Raises
        ------
        SetupError
            If the storage cannot be reached.
        """
        folder = self.folder(place)
        return {name.removeprefix(f"{folder}/") for name in self._storage.list(folder)}

    def confirm(self, place: Place, checkpoint: Checkpoint) -> None:
        """Note that a checkpoint is whole, so that older ones are not needed."""
        self._good.setdefault(place, set()).add(checkpoint.name)

    def prune(self, place: Place, committed: int, generation: int, keep: int = KEEP) -> list[str]:
        """Delete what no restore will need any more; return the names.

        For the owner of the partition only; a former owner that has been fenced and does not know
        yet does no harm. That a file is whole is known of those that this object wrote or was
        told of by :meth:`confirm`. As long as none of them is at or below the committed offset
        nothing is deleted; then segments that no file needs are, and these files:

        - At or below the committed offset, what is older than the newest file known to be whole
          and not among the ``keep`` newest. So the newest whole one stays, whichever that is, and
          a few more in case it is damaged later. What :meth:`candidates` leaves out goes too.
        - Above it, files of earlier generations. Their writer crashed or was fenced before it
          committed so far, and this generation passes the same offsets in its own way: nobody
          shall take the leftover for its state when the commits have passed it.

        Above the committed offset, files of this generation wait for their commit, and those of a
        later one belong to an owner that this process does not know of yet.

        Parameters
        ----------
        place
            The partition.
        committed
            Its committed offset.
        generation
            The group's generation in which the partition is ours.
        keep
            How many files at or below the committed offset stay, at least 1.

        Raises
        ------
        SetupError
            If the storage cannot be reached; some files may be gone, and the rest waits.
        """
        folder = self.folder(place)
        names = self._storage.list(folder)
        everybodys = _files(folder, names)
        files = self._ours(everybodys)
        good = self._good.setdefault(place, set())
        below = [file for file in reversed(_one_history(files)) if file.offset <= committed]
        newest = next((i for i, file in enumerate(below) if file.name in good), None)
        if newest is None:
            return []
        kept = set(below[: max(newest + 1, keep)])
        useless = [
            file
            for file in reversed(files)
            if file not in kept and (file.offset <= committed or file.generation < generation)
        ]
        # From the newest on: what shows that a file belongs to another history has a lower offset,
        # and must be there until that file is gone.
        for file in useless:
            self._storage.delete(file.name)
            good.discard(file.name)
            self._needs.pop(file.name, None)
        pruned = [file.name for file in useless]
        try:
            needed_by = set(everybodys) - set(useless)
            needs = set().union(*(self._needed(file.name) for file in needed_by))
        except DataError:
            return pruned  # damaged, or gone: who owned it meanwhile knows better
        names_here = {name.removeprefix(f"{folder}/") for name in names}
        return pruned + self.segments.prune(folder, names_here, needs, generation)

    def folder(self, place: Place) -> str:
        """Return where the files of a partition are."""
        (topic, number), topic_id = place
        return f"{FOLDER}/{self._cluster}/{_part(topic)}/{_part(topic_id)}/{number}"

    def _needed(self, name: str) -> set[str]:
        """Return the segments that a file needs; read once, since files never change."""
        if name not in self._needs:
            with self._storage.open(name) as file:
                self._needs[name] = needed(file)
        return self._needs[name]

    def _ours(self, files: Iterable[_File]) -> list[_File]:
        """Return the files that this version knows."""
        return [file for file in files if file.version <= self._version]

    def _look_for_later(self, files: Iterable[_File], at_most: int) -> None:
        """Report that the best checkpoint is one which only a later version can read."""
        files = [file for file in files if file.offset <= at_most]
        if not files or files[-1].version <= self._version:
            return
        own = [file.offset for file in self._ours(files)]
        log.warning(
            "the newest checkpoint was written by a later version of Eddy: it is left for that, "
            "and this worker goes on from an older one or, without one, from the last records "
            "before the commit; finish the upgrade, or roll it back on all workers",
            name=files[-1].name,
            version=files[-1].version,
            ours=self._version,
            older_at=own[-1] if own else None,
        )

    def _look_for_others(self, place: Place) -> None:
        """Report, once a topic, checkpoints of an earlier topic of the same name."""
        topic, topic_id = place.partition.topic, place.topic_id
        if (topic, topic_id) in self._looked:
            return
        folder = f"{FOLDER}/{self._cluster}/{_part(topic)}"
        names = self._storage.list(folder)
        self._looked.add((topic, topic_id))
        found = {name.removeprefix(f"{folder}/").partition("/")[0] for name in names}
        for other in sorted(found - {topic_id}):
            log.warning(
                "checkpoints of an earlier topic of this name are ignored: it was deleted and made "
                "again, and has other records; delete the directory to free its space",
                topic=topic,
                topic_id=topic_id,
                directory=f"{folder}/{other}",
            )


def _files(folder: str, names: Iterable[str]) -> list[_File]:
    """Return a partition's files, the newest last; what has no such name is none of them."""
    found = []
    for name in names:
        match = NAME.fullmatch(name.removeprefix(f"{folder}/"))
        if match:
            offset, generation, writer, number, version = match.groups()
            numbers = int(offset), int(generation), writer, int(number), int(version or 1)
            found.append(_File(*numbers, name))
    return sorted(found)


def _one_history(files: Iterable[_File]) -> list[_File]:
    """Leave out files beyond an offset that was passed again later; oldest first, as given."""
    kept: list[_File] = []
    generation = -1
    numbers: dict[str, int] = {}
    for _, alike in itertools.groupby(files, lambda file: file.offset):
        # of one offset several are good: a generation begins where the one before it ended
        here = [
            x for x in alike if x.generation >= generation and x.number >= numbers.get(x.writer, 0)
        ]
        for file in here:
            generation = max(generation, file.generation)
            numbers[file.writer] = max(file.number, numbers.get(file.writer, 0))
        kept += here
    return kept


def _part(text: str) -> str:
    """Check what becomes a directory."""
    if not PART.fullmatch(text) or text in {".", ".."}:
        msg = f"{text!r} cannot name a cluster, topic or topic id in a checkpoint's name"
        raise DataError(msg)
    return text
