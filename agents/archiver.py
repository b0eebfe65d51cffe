"""Writes what a worker keeps for training, beside the work on the next records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from agents.archiving import quarantine_archive, record_archive
from agents.judge import Result
from agents.patience import patiently
from connectors.archive import Archive
from connectors.base import Partition
from connectors.storage import Storage

ROWS = 50_000
SECONDS = 30.0

_Rows = dict[tuple[Archive, Partition], list[pa.Table]]


class Archiver:
    """Gathers rows and writes them as files of at least ``ROWS``, or after ``SECONDS``.

    Who gathers faster than the storage takes it, waits, also for one that is away. What goes ahead
    of a checkpoint queues up instead: one of these is under way at a time.

    Parameters
    ----------
    storage
        Where the archives are.
    streams
        Names of the streams.
    writer
        A thread that works one task after the other.
    now
        Seconds on a clock that only goes forward.
    """

    def __init__(
        self,
        storage: Storage,
        streams: Iterable[str],
        writer: ThreadPoolExecutor,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._archives = {
            name: (record_archive(storage, name), quarantine_archive(storage, name))
            for name in streams
        }
        self._now = now
        self._rows: _Rows = {}
        self._waiting = 0
        self._at = now()
        self._writer = writer
        self._written: list[Future[None]] = []

    def keep(self, result: Result) -> None:
        """Gather what the pipeline wants archived."""
        for stream, partition, table in result.archive:
            self._add(self._archives[stream][0], partition, table)
        for stream, partition, table in result.quarantine:
            self._add(self._archives[stream][1], partition, table)
        self.tick()

    def tick(self) -> None:
        """Begin to write if enough is gathered, or has waited long enough."""
        if self._waiting >= ROWS or self._now() - self._at > SECONDS:
            self._settle()
            self._begin(dict(self._rows))
            self._at = self._now()

    def begin(self, partition: Partition) -> None:
        """Begin to write what is gathered of one partition."""
        self._begin({place: rows for place, rows in self._rows.items() if place[1] == partition})

    def flush(self) -> None:
        """Write all there is; return when it is on the storage."""
        self._begin(dict(self._rows))
        self._settle()

    def _add(self, archive: Archive, partition: Partition, table: pa.Table) -> None:
        self._rows.setdefault((archive, partition), []).append(table)
        self._waiting += table.num_rows

    def _begin(self, rows: _Rows) -> None:
        if rows:
            self._written.append(self._writer.submit(_write, rows))
        for place, tables in rows.items():
            self._waiting -= sum(table.num_rows for table in tables)
            del self._rows[place]

    def _settle(self) -> None:
        """Wait for what is under way."""
        written, self._written = self._written, []
        for each in written:
            each.result()


def _write(rows: _Rows) -> None:
    for (archive, partition), tables in rows.items():
        write = partial(archive.append, partition, pa.concat_tables(tables))
        patiently(write, f"archive of {partition.topic}/{partition.number}")
