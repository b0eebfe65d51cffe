"""How far the workers are, as an independent client sees it: commits and members of the group."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.chaos.schedule import PARTITIONS

LOOK_SECONDS = 0.2
IDLE_SECONDS = 1.0
# a commit that was on its way when a fault came is no progress since then
UNDER_WAY_SECONDS = 0.5


class Sample(NamedTuple):
    """The commits of all partitions at some time, and what had been sent before that."""

    began: float
    at: float
    sent: Mapping[int, int]
    committed: Mapping[int, int]


class Progress:
    """Looks at a group again and again, in a thread of its own.

    Parameters
    ----------
    sent
        Tells how many records each partition has been sent so far.
    """

    def __init__(
        self, bootstrap: str, group: str, topic: str, sent: Callable[[], Mapping[int, int]]
    ) -> None:
        self._sent = sent
        self.samples: list[Sample] = []
        self._bootstrap, self._group, self._topic = bootstrap, group, topic
        self._members = 0
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stopped.set()
        self._thread.join(30)

    @property
    def committed(self) -> Mapping[int, int]:
        """The newest commits."""
        return self.samples[-1].committed if self.samples else {}

    def await_members(self, count: int, seconds: float) -> bool:
        """Wait until the group is stable with so many members."""
        return self._await(lambda: self._members == count, seconds)

    def await_ends(self, ends: Mapping[int, int], seconds: float) -> bool:
        """Wait until everything is committed."""
        return self._await(
            lambda: all(self.committed.get(p, 0) >= x for p, x in ends.items()), seconds
        )

    def await_total(self, records: int, seconds: float) -> bool:
        """Wait until so many records are committed in all."""
        return self._await(lambda: sum(self.committed.values()) >= records, seconds)

    def await_moved(self, since: float, seconds: float) -> bool:
        """Wait until every partition has made progress since a time."""
        return self._await(lambda: self.moved_at(since) is not None, seconds)

    def moved_at(self, since: float) -> float | None:
        """Return when every partition had committed something new since a time, if it has.

        A partition that has nothing left to do needs no progress.
        """
        after = [x for x in self.samples if x.began >= since + UNDER_WAY_SECONDS]
        if not after:
            return None
        before = after[0].committed
        for sample in after[1:]:
            late = sample.began > since + IDLE_SECONDS
            now = sample.committed
            if all(
                now.get(p, 0) > before.get(p, 0)
                or (late and now.get(p, 0) >= sample.sent.get(p, 0))
                for p in range(PARTITIONS)
            ):
                return sample.at
        return None

    def _await(self, what: Callable[[], bool], seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(what, seconds)

    def _run(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(KafkaError, OSError, KeyError):
                admin = KafkaAdminClient(
                    bootstrap_servers=self._bootstrap.split(","), request_timeout_ms=5_000
                )
                with contextlib.closing(admin):
                    while not self._stopped.is_set():
                        self._look(admin)
                        self._stopped.wait(LOOK_SECONDS)
            self._stopped.wait(LOOK_SECONDS)

    def _look(self, admin: KafkaAdminClient) -> None:
        began, sent = time.monotonic(), self._sent()
        offsets = admin.list_group_offsets([self._group])[self._group]
        committed = {
            x.partition: y.offset
            for x, y in offsets.items()
            if x.topic == self._topic and y.offset >= 0
        }
        group = admin.describe_groups([self._group])[self._group]
        stable = group["group_state"] == "Stable"
        with self._changed:
            self._members = len(group["members"]) if stable else 0
            self.samples.append(Sample(began, time.monotonic(), sent, committed))
            self._changed.notify_all()
