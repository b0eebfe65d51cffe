"""Records as the trainer will read them again: fields as sent, position, and whether suspect.

The archive keeps records rather than windows: sliding windows repeat each record many times, and
from records the trainer makes exactly the windows that the worker made, also after a change of
window, field or log template.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from agents.records import Records
from connectors.base import Partition
from schemas.config import Stream


def archive_table(stream: Stream, records: Records, suspect: Collection[int]) -> pa.Table:
    """Make the rows of accepted records; ``suspect`` are the indices of anomalous ones."""
    marks = np.zeros(len(records), dtype=bool)
    marks[list(suspect)] = True
    columns: dict[str, pa.Array] = {
        "topic": pa.repeat(records.partition.topic, len(records)),
        "partition": pa.array(np.full(len(records), records.partition.number)),
        "offset": pa.array(records.offset),
        "time": pa.array(records.time),
        "log_time": pa.array(records.log_time),
        "key": pa.array(records.key),
        "suspect": pa.array(marks),
    }
    if records.session is not None:
        columns["session"] = pa.array(records.session)
    for index, name in enumerate(stream.of_type("number")):
        columns[f"field:{name}"] = pa.array(records.numbers[:, index])
    for name, values in zip(stream.of_type("category"), records.categories, strict=True):
        columns[f"field:{name}"] = pa.array(values, pa.string())
    for name, values in zip(stream.of_type("text"), records.texts, strict=True):
        columns[f"field:{name}"] = pa.array(values, pa.string())
    return pa.table(columns)


def archived_records(stream: Stream, table: pa.Table) -> list[Records]:
    """Read archived rows back, partition by partition in offset order."""
    result = []
    topics = table["topic"].to_numpy(zero_copy_only=False)
    numbers = table["partition"].to_numpy(zero_copy_only=False)
    for topic, number in sorted(set(zip(topics.tolist(), numbers.tolist(), strict=True))):
        rows = np.flatnonzero((topics == topic) & (numbers == number))
        part = table.take(rows)
        part = part.take(np.argsort(part["offset"].to_numpy(), kind="stable"))
        result.append(_records(stream, Partition(topic, number), part))
    return result


def _records(stream: Stream, partition: Partition, part: pa.Table) -> Records:
    fields = [f"field:{name}" for name in stream.of_type("number")]
    values = [part[name].to_numpy(zero_copy_only=False) for name in fields]
    return Records(
        partition=partition,
        offset=part["offset"].to_numpy().copy(),
        log_time=part["log_time"].to_numpy().copy(),
        time=part["time"].to_numpy().copy(),
        key=part["key"].to_pylist(),
        numbers=np.stack(values, axis=1) if values else np.empty((part.num_rows, 0)),
        categories=tuple(part[f"field:{n}"].to_pylist() for n in stream.of_type("category")),
        texts=tuple(part[f"field:{n}"].to_pylist() for n in stream.of_type("text")),
        session=part["session"].to_pylist() if "session" in part.column_names else None,
    )
