"""From the records of a client library to a fetch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from connectors.base import Fetch, Partition
from connectors.kafka.origin import find_origin

__all__ = ["to_fetch"]

NS_PER_MS = 1_000_000


def to_fetch(partition: Partition, records: Sequence[Any]) -> Fetch:
    """Turn consecutive records of one partition into a fetch.

    Parameters
    ----------
    partition
        Where the records come from.
    records
        At least one object with ``offset``, ``timestamp`` (ms), ``key``, ``value`` and
        ``headers``, as aiokafka and kafka-python hand them out.
    """
    count = len(records)
    timestamps = np.fromiter((record.timestamp for record in records), np.int64, count)
    # the log's "no timestamp" is -1, ours is 0
    np.maximum(timestamps, 0, out=timestamps)
    origins = None
    if any(record.headers for record in records):
        topic, number = partition
        origins = [find_origin(x.headers, topic, number, x.offset) for x in records]
    return Fetch(
        partition=partition,
        offsets=np.fromiter((record.offset for record in records), np.int64, count),
        timestamps=timestamps * NS_PER_MS,
        keys=[record.key for record in records],
        values=[record.value for record in records],
        origins=origins,
    )
