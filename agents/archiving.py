"""Records as the trainer will read them again, and the quarantine: which windows were suspect.

The archive keeps records rather than windows: sliding windows repeat each record many times, and
from records the trainer makes exactly the windows that the worker made, also after a change of
window, field or log template. Windows that were judged anomalous are in quarantine: named by the
position of their last record and their key, so that the trainer can leave them out.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agents.records import Floats, Ints, Records
from agents.window import Windows
from connectors.archive import Archive
from connectors.base import Partition
from connectors.storage import Storage
from schemas.config import Session, Stream


def record_archive(storage: Storage, stream: str) -> Archive:
    """Open the archive of a stream's records."""
    return Archive(storage, stream, identity=["row"])


def quarantine_archive(storage: Storage, stream: str) -> Archive:
    """Open the quarantine of a stream."""
    return Archive(storage, stream, folder="quarantine", identity=["key", "time"])


def quarantine_table(partition: Partition, windows: Windows, surge: NDArray[np.bool_]) -> pa.Table:
    """Make the rows of anomalous windows; ``surge`` marks those which a surge explains."""
    return pa.table(
        {
            "topic": pa.repeat(partition.topic, len(windows)),
            "partition": pa.array(np.full(len(windows), partition.number)),
            "offset": pa.array(windows.last_offset),
            "time": pa.array(windows.end),
            "key": pa.array(windows.key),
            "surge": pa.array(surge),
        }
    )


class Quarantine:
    """The windows that were judged anomalous while serving.

    Parameters
    ----------
    table
        What :func:`quarantine_table` made, as read back.
    changed_at
        Event time since when the stream has been another. What many keys did at once since then
        is no anomaly but the new normal, and released.
    """

    def __init__(self, table: pa.Table | None = None, changed_at: int | None = None) -> None:
        self._held: set[tuple[object, ...]] = set()
        if table is None or not table.num_rows:
            return
        if changed_at is not None:
            time = table["time"].to_numpy()
            released = table["surge"].to_numpy() & (time >= changed_at)
            table = table.filter(pa.array(~released))
        names = ("topic", "partition", "offset", "key")
        self._held = set(zip(*(table[name].to_pylist() for name in names), strict=True))

    def holds(self, partition: Partition, windows: Windows) -> NDArray[np.bool_]:
        """Mark the windows ``[W]`` that are in quarantine."""
        positions = zip(windows.last_offset.tolist(), windows.key, strict=True)
        marks = [(*partition, offset, key) in self._held for offset, key in positions]
        return np.array(marks, dtype=bool)


def archive_table(stream: Stream, records: Records) -> pa.Table:
    """Make the rows of accepted records."""
    columns: dict[str, pa.Array] = {
        "topic": pa.repeat(records.partition.topic, len(records)),
        "partition": pa.array(np.full(len(records), records.partition.number)),
        "offset": pa.array(records.offset),
        "time": pa.array(records.time),
        "log_time": pa.array(records.log_time),
        "key": pa.array(records.key),
        "row": pa.array(_rows(records)),
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


def _rows(records: Records) -> Ints:
    return np.zeros(len(records), np.int64) if records.row is None else records.row


def archived_records(stream: Stream, table: pa.Table) -> list[Records]:
    """Read archived rows back, partition by partition in offset order."""
    result = []
    topics = table["topic"].to_numpy(zero_copy_only=False)
    numbers = table["partition"].to_numpy(zero_copy_only=False)
    for topic, number in sorted(set(zip(topics.tolist(), numbers.tolist(), strict=True))):
        rows = np.flatnonzero((topics == topic) & (numbers == number))
        part = table.take(rows)
        part = part.sort_by([("offset", "ascending"), ("row", "ascending")])
        result.append(_records(stream, Partition(topic, number), part))
    return result


def _records(stream: Stream, partition: Partition, part: pa.Table) -> Records:
    values = [_numbers(part, name) for name in stream.of_type("number")]
    return Records(
        partition=partition,
        offset=part["offset"].to_numpy().copy(),
        log_time=part["log_time"].to_numpy().copy(),
        time=part["time"].to_numpy().copy(),
        key=part["key"].to_pylist(),
        numbers=np.stack(values, axis=1) if values else np.empty((part.num_rows, 0)),
        categories=tuple(_strings(part, n) for n in stream.of_type("category")),
        texts=tuple(_strings(part, n) for n in stream.of_type("text")),
        session=_sessions(stream, part),
    )


def _sessions(stream: Stream, part: pa.Table) -> list[str] | None:
    """Read the session ids; empty where the windows were others when it was archived."""
    if not isinstance(stream.window, Session) or stream.window.id is None:
        return None
    if "session" not in part.column_names:
        return [""] * part.num_rows
    return [value or "" for value in part["session"].to_pylist()]


def _numbers(part: pa.Table, name: str) -> Floats:
    """Read a field; one that was no number when it was archived, or no field, is missing."""
    column = part[f"field:{name}"] if f"field:{name}" in part.column_names else None
    if column is None or not pa.types.is_floating(column.type):
        return np.full(part.num_rows, np.nan)
    values: Floats = column.to_numpy(zero_copy_only=False)
    return values


def _strings(part: pa.Table, name: str) -> list[str | None]:
    """Read a field; one that was a number when it was archived, or no field, is missing."""
    column = part[f"field:{name}"] if f"field:{name}" in part.column_names else None
    if column is None or not pa.types.is_string(column.type):
        return [None] * part.num_rows
    strings: list[str | None] = column.to_pylist()
    return strings
