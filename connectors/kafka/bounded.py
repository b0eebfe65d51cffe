"""Record batches that would expand beyond all bounds when they are decompressed.

A broker limits the bytes of a batch as they are sent. A megabyte of zstd may stand for gigabytes,
and aiokafka would allocate them: one such batch would end every worker that fetches it, again and
again. With :func:`bound_batches`, a batch that expands too far is told in the log, and each of its
records has :data:`TOO_LARGE` for a value.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cramjam
import structlog
from aiokafka.consumer import fetcher
from aiokafka.record._crecords import default_records

__all__ = ["TOO_LARGE", "bound_batches"]

log = structlog.get_logger(__name__)

# Producers gather at most some megabytes in a batch.
BATCH_BYTES = 64 << 20

# What no limit on messages lets pass. Nothing is written to these zeros, so they take no memory.
TOO_LARGE = bytes(BATCH_BYTES + 1)

CODECS = {"gzip_decode": cramjam.gzip, "lz4_decode": cramjam.lz4, "zstd_decode": cramjam.zstd}

_room = threading.local()


class _TooLarge(Exception):
    """A batch does not fit when it is decompressed, or cannot be."""


@dataclass(frozen=True, slots=True)
class _StandIn:
    """A record of a batch that cannot be read."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: None = None
    value: bytes = TOO_LARGE
    headers: tuple[()] = ()
    checksum: None = None


class _Batch:
    """A batch whose records stand in for themselves if they cannot be read."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._batch
        except _TooLarge as error:
            batch = self._batch
            first, end = batch.base_offset, batch.next_offset
            log.error(
                "a batch of records is damaged, or expands too far: none of them is read",
                first=first,
                end=end,
                limit=BATCH_BYTES,
                why=str(error),
            )
            for offset in range(first, end):
                yield _StandIn(offset, batch.max_timestamp, batch.timestamp_type)


class _Batches:
    """The batches of one answer of a broker."""

    def __init__(self, records: Any) -> None:
        self.has_next = records.has_next
        self._next = records.next_batch

    def next_batch(self) -> _Batch:
        """Return the next batch."""
        return _Batch(self._next())


class _PartitionRecords(fetcher.PartitionRecords):
    def __init__(self, tp: Any, records: Any, *more: Any, **named: Any) -> None:
        super().__init__(tp, _Batches(records), *more, **named)


def bound_batches() -> None:
    """Bound what all aiokafka consumers of this process decompress; idempotent."""
    for name, codec in CODECS.items():
        setattr(default_records, name, functools.partial(_decompress, codec))
    fetcher.PartitionRecords = _PartitionRecords


def _decompress(codec: Any, payload: Any) -> bytes:
    room = getattr(_room, "bytes", None)
    if room is None:
        # never cleared: of its pages, only those are real that a batch has needed
        room = _room.bytes = bytearray(BATCH_BYTES)
    try:
        size = codec.decompress_into(payload, room)
    except cramjam.DecompressionError as error:
        raise _TooLarge(str(error)) from error
    return bytes(memoryview(room)[:size])
