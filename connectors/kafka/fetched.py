"""Records that aiokafka has fetched, taken as they are: its own way makes objects of each.

What is needed of its fetcher is not public: see the versions that pyproject allows.
"""

# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import TopicPartition

# Records of one partition in one fetch: a share of a batch, so that batches stay mixed and a
# partition with a backlog does not keep the others waiting.
FETCH_RECORDS = 4096


async def records_there(fetcher: Any, places: set[TopicPartition], seconds: float) -> None:
    """Return when one of the places has records, or an error, or after a time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not (places & fetcher._records.keys()):
        left = end - loop.time()
        if left <= 0:
            return
        waiter = fetcher._create_fetch_waiter()
        done, _ = await asyncio.wait([waiter], timeout=left)
        if not done:
            waiter.cancel()
            return
        waiter.result()


def take(fetcher: Any, place: TopicPartition) -> list[Any]:
    """Take a share of the fetched records of one partition, or raise its error."""
    result = fetcher._records[place]
    records: list[Any] = []
    more = False
    try:
        if hasattr(result, "getall"):
            # A third of the time would go into an object per record that says the same again.
            result._partition_records._consumer_record = _as_parsed
            records = result.getall(FETCH_RECORDS)
            more = result.has_more()
        else:
            result.check_raise()
    finally:
        if not more:
            del fetcher._records[place]
            fetcher._notify(fetcher._wait_consume_future)
    return records


def _as_parsed(place: TopicPartition, record: Any) -> Any:
    return record
