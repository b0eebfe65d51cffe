"""The thread in which the aiokafka consumer lives: fetching, seeking, committing, leaving.

Its methods that are coroutines of the application's loop go through :meth:`ConsumerThread.inside`;
those with an underscore run inside the thread's own loop and alone touch the aiokafka consumer.
What they need of it is not public: see the versions that pyproject allows.
"""

# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
)
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from mode.threads import QueueServiceThread

from connectors.base import Partition
from connectors.kafka.client import METADATA_MS, aiokafka_settings
from connectors.kafka.fetched import records_there, take
from connectors.kafka.polls import Commit, Committed, Poll
from connectors.kafka.records import to_fetch

log = structlog.get_logger(__name__)

T = TypeVar("T")

# A dead worker's partitions are taken over after the first, and a rebalance is noticed after the
# second (by default 60 s and 3 s).
SESSION_MS = 10_000
HEARTBEAT_MS = 500

# How long the group waits for a member that still publishes what it has under way.
REBALANCE_MS = 45_000

# A worker that fetches nothing for so long, its handler hanging, leaves its partitions to others.
MAX_POLL_MS = 300_000

# Bytes of one partition and of all partitions of one broker in an answer. Every partition may
# hold one such answer in memory while another part of the worker is slow.
PARTITION_BYTES = 4 << 20
FETCH_BYTES = 32 << 20

# How long a broker may hold back an answer to gather records. While it does, a partition that was
# held back cannot be asked for.
FETCH_WAIT_MS = 500

# A broker answers as soon as it has one record. At a moderate rate that would make hundreds of
# polls a second of a record or two each, which cost more than the records do. So what has come
# waits a moment for more, unless the poll before brought a good many.
LINGER_SECONDS = 0.005
GOOD_MANY = 1024

# A poll waits inside the thread; outside, only a thread that hangs makes it take longer.
POLL_GRACE_SECONDS = 30.0

# A leader answers within FETCH_WAIT_MS, if only to say that there is nothing.
SILENT_SECONDS = 10.0

COMMIT_SECONDS = 5.0
LEAVE_SECONDS = 3.0


class ConsumerThread(AIOKafkaConsumerThread):
    """Faust's consumer thread with its settings, its calls and its end made ours."""

    # The assignment that positions belong to: set with them, read with the records (see _poll).
    epoch = 0

    # Records that the last poll brought.
    _brought = 0

    # Since when each partition without fetched records has been asked for some.
    _asked: Mapping[TopicPartition, float] = {}

    async def inside(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Run a coroutine in the thread's loop; give up after a time.

        Faust's queue of calls has two workers, both of which a slow poll and a slow commit would
        keep.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(work, self.thread_loop)
        except RuntimeError:  # the thread has ended, and closed its loop
            work.close()
            raise
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        app = self.app
        # A class per consumer: the assignor keeps the last assignment on the class.
        self._sticky: Any = type("_Sticky", (StickyPartitionAssignor,), {})
        return AIOKafkaConsumer(
            **aiokafka_settings(app.kafka),
            client_id=app.conf.broker_client_id,
            group_id=app.conf.id,
            partition_assignment_strategy=[self._sticky],
            enable_auto_commit=False,
            # Never jump silently: where to begin is decided in _starts.
            auto_offset_reset="none",
            isolation_level=app.isolation_level,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            rebalance_timeout_ms=REBALANCE_MS,
            max_poll_interval_ms=MAX_POLL_MS,
            max_partition_fetch_bytes=PARTITION_BYTES,
            fetch_max_bytes=FETCH_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            # JoinGroup is answered when the last member has come, at most after REBALANCE_MS
            request_timeout_ms=REBALANCE_MS + 5_000,
            metadata_max_age_ms=METADATA_MS,
        )

    async def on_partitions_assigned(self, assigned: set[Any], generation_id: int = 0) -> None:
        """Tell the assignor the generation, which aiokafka forgets, and go on as faust does."""
        self._sticky.on_generation_assignment(generation_id)
        await super().on_partitions_assigned(assigned, generation_id)

    async def poll(self, wanted: Iterable[Partition], seconds: float) -> Poll:
        """Return what has been fetched from some partitions, waiting for it a while."""
        places = {TopicPartition(*partition) for partition in wanted}
        return await self.inside(self._poll(places, seconds), seconds + POLL_GRACE_SECONDS)

    async def _poll(self, places: set[TopicPartition], seconds: float) -> Poll:
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        # Without this, aiokafka's coordination pauses for ever after an error that it deems fatal.
        consumer._coordinator.check_errors()
        with fetcher._subscriptions.fetch_context():
            await records_there(fetcher, places, seconds)
            if self._brought < GOOD_MANY and places & fetcher._records.keys():
                await asyncio.sleep(LINGER_SECONDS)
        # No await from here on: nothing may move between the records and the epoch. aiokafka's own
        # fetched_records is not used: an error in one partition makes it drop what it has taken
        # from another, and it would wait for the end of a rebalance with the old partitions.
        fetches, lost = [], set()
        for place in places & fetcher._records.keys():
            partition = Partition(*place)
            try:
                records = take(fetcher, place)
            except OffsetOutOfRangeError:
                lost.add(partition)
            except KafkaError as error:
                log.error("cannot read", partition=_name(partition), reason=repr(error))
            else:
                if records:
                    fetches.append(to_fetch(partition, records))
        self._brought = sum(map(len, fetches))
        return Poll(
            self.epoch,
            fetches,
            self._marks(),
            frozenset(lost),
            consumer._coordinator.coordinator_id is not None,
            self._silent(places),
        )

    def _silent(self, places: set[TopicPartition]) -> frozenset[Partition]:
        """Return those places from which nothing has come lately, not even "nothing new"."""
        consumer = self._ensure_consumer()
        now = time.time()  # aiokafka's clock for its answers
        asked = places - consumer._fetcher._records.keys()
        self._asked = {place: self._asked.get(place, now) for place in asked}
        silent = set()
        for place, since in self._asked.items():
            state = consumer._subscription.subscription.assignment.state_value(place)
            heard = state.timestamp if state is not None else None
            if now - max(since, (heard or 0) / 1000) > SILENT_SECONDS:
                silent.add(Partition(*place))
        return frozenset(silent)

    def _marks(self) -> dict[Partition, tuple[int, int]]:
        consumer = self._ensure_consumer()
        assignment = consumer._subscription.subscription.assignment
        committed = self.app.isolation_level == "read_committed"
        marks = {}
        for place in assignment.tps:
            state = assignment.state_value(place)
            end = state.lso if committed else state.highwater
            if state.has_valid_position and end is not None:
                marks[Partition(*place)] = (state.position, end)
        return marks

    async def committed(self, partitions: set[Partition], policy: str) -> dict[Partition, Commit]:
        """Return the commit of each partition, after committing where none was.

        Where nothing was ever committed, ``policy`` (``earliest`` or ``latest``) decides, and its
        answer is committed at once: a worker that is killed before its first commit would
        otherwise begin at a later "latest" and skip records.
        """
        return await self.inside(self._committed(partitions, policy), COMMIT_SECONDS)

    async def _committed(self, partitions: set[Partition], policy: str) -> dict[Partition, Commit]:
        consumer = self._ensure_consumer()
        places = [TopicPartition(*partition) for partition in partitions]
        found = await consumer._coordinator.fetch_committed_offsets(places)
        commits = {place: Commit(value.offset, value.metadata) for place, value in found.items()}
        missing = [place for place in places if place not in commits]
        if missing:
            begin = consumer.beginning_offsets if policy == "earliest" else consumer.end_offsets
            fresh = await begin(missing)
            await consumer.commit({x: OffsetAndMetadata(y, "") for x, y in fresh.items()})
            commits |= {place: Commit(offset, "", True) for place, offset in fresh.items()}
        return {Partition(*place): commit for place, commit in commits.items()}

    async def counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Return how many partitions topics have, as the client knows."""
        return await self.inside(self._counts(topics), COMMIT_SECONDS)

    async def _counts(self, topics: Iterable[str]) -> dict[str, int]:
        cluster = self._ensure_consumer()._client.cluster
        return {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}

    async def bounds(self, partitions: Iterable[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first offset that each partition has, and the one that comes next."""
        consumer = self._ensure_consumer()
        places = [TopicPartition(*partition) for partition in partitions]
        first = await self.inside(consumer.beginning_offsets(places), COMMIT_SECONDS)
        end = await self.inside(consumer.end_offsets(places), COMMIT_SECONDS)
        return {Partition(*place): (first[place], end[place]) for place in places}

    async def start_at(self, offsets: Mapping[Partition, int], epoch: int) -> None:
        """Set positions; records that a poll returns from now on carry the epoch."""
        await self.inside(self._start_at(offsets, epoch), COMMIT_SECONDS)

    async def _start_at(self, offsets: Mapping[Partition, int], epoch: int) -> None:
        consumer = self._ensure_consumer()
        for partition, offset in offsets.items():
            consumer.seek(TopicPartition(*partition), offset)
        self.epoch = epoch

    async def commit_offsets(self, commits: Mapping[Partition, Commit]) -> Committed:
        """Commit; faust's own way ends the worker when the coordinator is away."""
        places = {
            TopicPartition(*x): OffsetAndMetadata(y.offset, y.memo) for x, y in commits.items()
        }
        try:
            consumer = self._ensure_consumer()
            await self.inside(consumer.commit(places), COMMIT_SECONDS)
        except (CommitFailedError, IllegalStateError) as error:
            log.warning("commit refused", reason=str(error), offsets=_readable(commits))
            return Committed.LOST
        except (KafkaError, TimeoutError, RuntimeError) as error:
            log.warning("commit postponed", reason=repr(error), offsets=_readable(commits))
            return Committed.LATER
        return Committed.DONE

    def rejoin(self) -> None:
        """Join the group again, whether or not it still counts us as a member."""
        consumer = self._consumer
        if consumer is not None:
            with contextlib.suppress(RuntimeError):  # it has stopped, and its loop is closed
                rejoin = consumer._coordinator.request_rejoin
                self.thread_loop.call_soon_threadsafe(rejoin)

    async def on_thread_stop(self) -> None:
        """Leave the group within a bounded time, also out of the middle of joining it."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(QueueServiceThread.on_thread_stop(self), 1.0)
        consumer = self._consumer
        if consumer is None:
            return
        stopping = asyncio.ensure_future(consumer.stop())
        await asyncio.wait([stopping], timeout=LEAVE_SECONDS)
        if not stopping.done():
            stopping.cancel()
            await self._leave(consumer)

    async def _leave(self, consumer: AIOKafkaConsumer) -> None:
        """Say goodbye past a join that is not answered.

        The broker answers a connection's requests in order, and so ours go over another one.
        """
        coordinator, client = consumer._coordinator, consumer._client
        with contextlib.suppress(KafkaError, TimeoutError, AttributeError):
            if coordinator.member_id and coordinator.coordinator_id is not None:
                request = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
                async with asyncio.timeout(1.0):
                    await client.send(coordinator.coordinator_id, request)
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(1.0):
                await client.close()

    def close(self) -> None:
        """Do nothing: faust would close the client in the wrong event loop."""


def _name(partition: Partition) -> str:
    return f"{partition.topic}/{partition.number}"


def _readable(commits: Mapping[Partition, Commit]) -> dict[str, int]:
    return {_name(partition): commit.offset for partition, commit in commits.items()}
