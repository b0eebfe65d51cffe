"""Checkpoints of the partitions that a worker has: when they are taken, written and found again.

A checkpoint is taken as a partition passes some offset: a copy in memory. It is written when that
offset has been committed, beside the work on the next records. So whatever a crash leaves on the
storage tells of outputs that are published.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from agents.layout import STATE_VERSION
from agents.patience import patiently
from agents.room import LARGE, Room
from agents.snapshot import State, pack, unpack
from agents.spilled import put_spill, take_spill
from connectors.base import Partition
from connectors.checkpoints import Checkpoints, Place
from connectors.spill import SpillSpace
from connectors.storage import Storage
from schemas.config import Checkpoints as Config
from schemas.errors import DataError, EddyError

log = structlog.get_logger(__name__)

MOST_SPARE = 2
"""Times the size of a copy that its room may have: of a state that has shrunk, memory goes back."""


@dataclass(slots=True)
class _Course:
    """The checkpoints of one partition."""

    place: Place
    due: float
    written: int = -1
    room: Future[Room] | None = None  # for the copy that is due
    taken: tuple[int, State, Room] | None = None  # waits for the commit of its offset


class Checkpointer:
    """Takes and writes checkpoints; all methods are called in the handler's thread.

    Parameters
    ----------
    storage
        Where they are kept.
    config
        How often they are taken, and how many are kept.
    writer
        A thread that works one task after the other: what was handed to it before, such as rows
        for the archive, is on the storage before the checkpoint is.
    space
        Where keys go that wait on the local disk.
    now
        Seconds on a clock that only goes forward; decides when to take one, nothing else.
    """

    def __init__(
        self,
        storage: Storage,
        config: Config,
        writer: ThreadPoolExecutor,
        space: SpillSpace,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage, self._writer, self._now = storage, writer, now
        self._space = space
        self._every = int(config.every) / 1e9
        self._keep = config.keep
        self._files: Checkpoints | None = None
        self._generation = 0
        self._courses: dict[Partition, _Course] = {}
        self._writing: Future[None] | None = None
        self._spare: Room | None = None

    def begin(self, cluster: str, places: Mapping[Partition, str], generation: int) -> None:
        """Take on partitions, and leave all others.

        Parameters
        ----------
        cluster
            Id of the cluster.
        places
            The partitions, with the ids of their topics.
        generation
            The group's generation in which they are ours.
        """
        self._files = self._files or Checkpoints(self._storage, cluster, STATE_VERSION)
        self._spare = None
        self._generation = generation
        # in turn, so that a batch waits for one copy at most
        step = self._every / max(len(places), 1)
        self._courses = {
            partition: _Course(Place(partition, topic_id), self._now() + step * (turn + 1))
            for turn, (partition, topic_id) in enumerate(sorted(places.items()))
        }

    def found(self, partition: Partition, committed: int) -> Iterator[tuple[int, State]]:
        """Yield offset and state of the checkpoints at or below the commit, the best first.

        Raises
        ------
        SetupError
            If the storage cannot be reached.
        """
        place = self._courses[partition].place
        for checkpoint in self._written().candidates(place, committed):
            try:
                state = unpack(checkpoint.data)
                if state.get("spill") is not None:
                    spill = take_spill(self._written(), place, state["spill"], self._space)
                    state["spill"] = spill
            except DataError as error:
                log.error("checkpoint passed over", name=checkpoint.name, why=str(error))
                continue
            self._written().confirm(place, checkpoint)
            yield checkpoint.offset, state

    def due(self) -> Partition | None:
        """Return the partition that is to be checkpointed now, if one is."""
        if self._writing is not None and not self._writing.done():
            return None
        waiting = [(x.due, p) for p, x in self._courses.items() if x.taken is None]
        first, partition = min(waiting, default=(0.0, None))
        return partition if partition is not None and first <= self._now() else None

    def room(self, partition: Partition, size: int) -> Room | None:
        """Return memory for a copy of ``size`` bytes, or ``None`` until it is ready."""
        if size < LARGE:
            return Room()
        course = self._courses[partition]
        if course.room is None:
            course.room = self._writer.submit(self._make_room, size)
        if not course.room.done():
            return None
        room, course.room = course.room.result(), None
        return room

    def take(self, partition: Partition, offset: int, state: State, room: Room) -> None:
        """Keep a copy of the state before ``offset``, in its room, until that is committed."""
        course = self._courses[partition]
        course.due = self._now() + self._every
        if offset > course.written:
            course.taken = (offset, state, room)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Begin to write the checkpoints whose offsets are now committed."""
        for partition, offset in offsets.items():
            course = self._courses.get(partition)
            if course is not None and course.taken is not None and course.taken[0] <= offset:
                taken, course.taken = course.taken, None
                self._writing = self._writer.submit(self._try, course, *taken)

    def write(self, partition: Partition, offset: int, state: State) -> None:
        """Write a checkpoint at a committed offset; return when it is on the storage.

        Raises
        ------
        SetupError
            If the storage does not take it.
        """
        course = self._courses[partition]
        course.taken = None
        self._writer.submit(self._write, course, offset, state).result()

    def write_patiently(self, partition: Partition, offset: int, state: State) -> None:
        """Write a checkpoint that nothing may go on without; wait for the storage if need be."""
        where = f"checkpoint of {partition.topic}/{partition.number}"
        patiently(lambda: self.write(partition, offset, state), where)

    def behind(self, partition: Partition, offset: int) -> bool:
        """Tell whether the newest checkpoint of a partition is an older one."""
        course = self._courses.get(partition)
        return course is not None and course.written < offset

    def _make_room(self, size: int) -> Room:
        """Return the room of the copy written before, if it fits: new memory may be slow to get."""
        spare, self._spare = self._spare, None
        if spare is not None and size <= spare.size <= MOST_SPARE * size:
            return spare
        del spare
        return Room(size)

    def _try(self, course: _Course, offset: int, state: State, room: Room) -> None:
        try:
            self._write(course, offset, state)
        except EddyError as error:
            log.error("checkpoint not written; trying again later", why=str(error))
        room.empty()
        self._spare = room

    def _write(self, course: _Course, offset: int, state: State) -> None:
        files, needs = self._written(), list[str]()
        if state["spill"] is not None:
            spill, needs = put_spill(files, course.place, self._generation, state["spill"])
            state = {**state, "spill": spill}
        files.write(course.place, offset, self._generation, pack(state), needs)
        course.written = offset
        files.prune(course.place, offset, self._generation, self._keep)

    def _written(self) -> Checkpoints:
        if self._files is None:
            msg = "begin() comes first"
            raise RuntimeError(msg)
        return self._files
