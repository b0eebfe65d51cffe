"""Arrow IPC messages, read within bounds that a sender cannot stretch.

A small message may stand for a large table: compressed buffers, columns without bytes of their own,
and many references to one long value. All of it is bounded before anything is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agents.tables import Bad

__all__ = ["Rows", "read_rows"]

# A message may expand so many times, and to so much in any case: enough for what producers make
# of real records, and bounded by the bytes of a fetch.
EXPANSION = 32
SMALL_BYTES = 1 << 16

# What pyarrow raises of bytes that are no Arrow, such as a column's name that is no text
_UNREADABLE = (
    *(pa.ArrowException, OSError, struct.error, MemoryError, NotImplementedError),
    *(ArithmeticError, LookupError, TypeError, ValueError),
)

_TABLE = struct.Struct("<i")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I64 = struct.Struct("<q")
_BUFFER = struct.Struct("<qq")  # offset in the body, and length

# Slots of the FlatBuffers tables Message and RecordBatch (format/Message.fbs of Arrow)
_KIND, _HEADER = 1, 2
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3
_DATA = 1  # slot of the record batch in a DictionaryBatch


class Rows(NamedTuple):
    """Columns by name, and how many rows they have."""

    columns: dict[str, Sequence[Any]]
    rows: int


def read_rows(message: bytes, types: dict[str, Any], text_limit: int) -> Rows | Bad:
    """Read the columns of an IPC stream.

    Parameters
    ----------
    message
        The stream.
    types
        The columns to read, with ``float | None`` for numbers; one that is missing is all ``None``.
    text_limit
        Strings are cut after so many characters and one more, which shows that they were longer.

    Returns
    -------
    Rows or Bad
        The columns, or why the message cannot be used.
    """
    try:
        problem = _unbounded(message)
        if problem is not None:
            return problem
        with pa.ipc.open_stream(message) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except _UNREADABLE as error:
        return Bad("not_arrow", str(error)[:200])
    columns: dict[str, Sequence[Any]] = {}
    for name, kind in types.items():
        found = _column(table, name, kind == (float | None), text_limit)
        if isinstance(found, Bad):
            return found
        columns[name] = found
    return Rows(columns, table.num_rows)


def _unbounded(message: bytes) -> Bad | None:
    """Add up what a stream says that it will expand to, and how many rows it says it has."""
    limit = max(SMALL_BYTES, EXPANSION * len(message))
    rows = expanded = 0
    for part in pa.ipc.MessageReader.open_stream(message):
        if part.type not in ("record batch", "dictionary"):
            continue
        count, size = _announced(bytes(part.metadata), part.body)
        rows, expanded = rows + count, expanded + size
        if count < 0 or size < 0 or expanded > limit:
            return Bad("too_large", f"expands to {expanded} bytes, the limit is {limit}")
        # a row that takes no byte costs something all the same
        if rows > max(SMALL_BYTES >> 4, len(message), expanded):
            return Bad("too_large", f"{rows} rows in {expanded} bytes")
    return None


def _announced(metadata: bytes, body: pa.Buffer) -> tuple[int, int]:
    """Return the rows of a batch, and the bytes of its buffers when they are decompressed."""
    root = _U32.unpack_from(metadata, 0)[0]
    kind_at = _field(metadata, root, _KIND)
    batch = _follow(metadata, root, _HEADER)
    if kind_at is None or batch is None:
        return 0, 0
    if metadata[kind_at] == _DICTIONARY_BATCH:
        batch = _follow(metadata, batch, _DATA)
        if batch is None:
            return 0, 0
    length_at = _field(metadata, batch, _LENGTH)
    rows = 0 if length_at is None else _I64.unpack_from(metadata, length_at)[0]
    buffers = _follow(metadata, batch, _BUFFERS)
    if buffers is None:
        return rows, 0
    count = _U32.unpack_from(metadata, buffers)[0]
    compressed = _field(metadata, batch, _COMPRESSION) is not None
    size = 0
    for index in range(count):
        start, length = _BUFFER.unpack_from(metadata, buffers + 4 + index * _BUFFER.size)
        if compressed and length >= _I64.size:
            # -1: this one is not compressed after all
            told = _I64.unpack_from(body, start)[0]
            length = length if told == -1 else told
        if length < 0:
            return rows, -1
        size += length
    return rows, size


def _field(data: bytes, table: int, slot: int) -> int | None:
    """Return where a field of a FlatBuffers table is; ``None`` if it has its default."""
    vtable = table - _TABLE.unpack_from(data, table)[0]
    at = 4 + 2 * slot
    if vtable < 0 or at >= _U16.unpack_from(data, vtable)[0]:
        return None
    offset = _U16.unpack_from(data, vtable + at)[0]
    return table + offset if offset else None


def _follow(data: bytes, table: int, slot: int) -> int | None:
    """Return where the table or vector is that a field refers to."""
    at = _field(data, table, slot)
    return None if at is None else at + _U32.unpack_from(data, at)[0]


def _column(table: pa.Table, name: str, number: bool, text_limit: int) -> Sequence[Any] | Bad:
    found = table.schema.get_all_field_indices(name)
    if not found:
        return [None] * table.num_rows
    if len(found) > 1:
        return Bad("wrong_type", f"{name}: {len(found)} columns of this name")
    column = table.column(found[0])
    values: list[Any] = []
    try:
        for chunk in column.chunks:
            part = _numbers(chunk) if number else _scalars(chunk, text_limit)
            if part is None:
                return Bad("wrong_type", f"{name}: {str(column.type)[:100]}")
            values = values + part if values else part
    except _UNREADABLE as error:
        return Bad("wrong_type", f"{name}: {str(error)[:200]}")
    return values


def _numbers(chunk: pa.Array) -> list[Any] | None:
    kind = chunk.type
    if pa.types.is_dictionary(kind):
        chunk, kind = chunk.dictionary_decode(), kind.value_type
    if pa.types.is_timestamp(kind):
        chunk = chunk.cast(pa.int64())
    elif not (_is_number(kind) or pa.types.is_null(kind) or _is_text(kind)):
        return None
    numbers: list[Any] = chunk.cast(pa.float64()).to_pylist()
    return numbers


def _scalars(chunk: pa.Array, text_limit: int) -> list[Any] | None:
    kind = chunk.type
    if pa.types.is_dictionary(kind):
        values = _scalars(chunk.dictionary, text_limit)
        if values is None:
            return None
        # one string for all rows that refer to it
        index = pc.fill_null(chunk.indices.cast(pa.int64()), len(values))
        lookup = np.array([*values, None], dtype=object)
        shared: list[Any] = lookup[index.to_numpy(zero_copy_only=False)].tolist()
        return shared
    if _is_text(kind):
        if (pc.max(pc.binary_length(chunk)).as_py() or 0) > text_limit:
            chunk = pc.utf8_slice_codeunits(chunk, 0, text_limit + 1)
    elif pa.types.is_timestamp(kind):
        chunk = chunk.cast(pa.int64())
    elif pa.types.is_date(kind) or pa.types.is_decimal(kind):
        chunk = chunk.cast(pa.string())
    elif not (_is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        return None
    scalars: list[Any] = chunk.to_pylist()
    return scalars


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
