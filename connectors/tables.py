"""Tables as messages: every row of a CSV or Parquet file becomes one JSON object.

In: a byte stream of CSV, or a Parquet file. Out: lists of JSON messages in row order. The work is
done on whole columns: each is turned into JSON tokens, and the rows are joined from them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from schemas.errors import DataError

__all__ = ["csv_messages", "parquet_messages"]

BOM = b"\xef\xbb\xbf"
DELIMITERS = ",;\t|"
HEADER_BYTES = 1 << 16  # whatever has a longer first line is no table

# What JSON calls a number. "007" is none, so zero-padded ids stay text.
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
MISSING = pa.array([b"NA", b"N/A", b"n/a", b"NaN", b"nan", b"NULL", b"null", b"None"], pa.binary())

# A column is one of numbers when most of its values are. All of them would be too strict: a single
# "?" would turn a column of numbers into text.
NUMERIC_SHARE = 0.9

ESCAPED = re.compile(rb'["\\\x00-\x1f]')


def csv_messages(head: bytes, stream: IO[bytes], where: str) -> Iterator[list[bytes]]:
    """Turn the rows of a CSV file into JSON messages.

    A column whose values are at least 90 % numbers, in the first block that has any, is numeric:
    its numbers are copied digit by digit, ``NA``, ``NaN``, ``null`` and their like become null,
    and anything else stays a string. All other columns are strings. An unquoted empty cell is
    null. Rows with too few or too many cells are messages as they stand.

    Parameters
    ----------
    head
        Beginning of the file, with the whole header line. The delimiter is the one of
        ``, ; tab |`` that the header has most of.
    stream
        The file, from its beginning.
    where
        Name of the file, for errors.

    Raises
    ------
    DataError
        If there is no header, a name stands twice in it, or a quotation mark is never closed.
    """
    header, newline, _ = head.removeprefix(BOM).partition(b"\n")
    if len(header) > HEADER_BYTES:
        msg = f"{where} is no CSV file: its first line is longer than {HEADER_BYTES} bytes"
        raise DataError(msg)
    # Each byte is read as one character of Latin-1 and written back so: invalid UTF-8 passes.
    line = header.decode("latin-1").rstrip("\r")
    delimiter = max(DELIMITERS, key=line.count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    _check_unique([name.encode("latin-1").decode("utf-8", "replace") for name in names], where)
    if newline:
        yield from _rows(stream, names, delimiter, where)


def _rows(
    stream: IO[bytes], names: Sequence[str], delimiter: str, where: str
) -> Iterator[list[bytes]]:
    rejected: list[tuple[int, bytes]] = []

    def reject(row: Any) -> str:
        # the header is row 1; blank lines do not count
        rejected.append((row.number - 2, row.text.encode("latin-1")))
        return "skip"

    numeric: dict[str, bool] = {}
    done = 0
    try:
        for batch in _csv_reader(stream, names, delimiter, reject):
            tokens = [
                _csv_tokens(name, column, numeric)
                for name, column in zip(names, batch.columns, strict=True)
            ]
            rows = [_bytes(row) for row in _objects(names, tokens)]
            done = _weave(rows, rejected, done)
            yield rows
    except pa.ArrowInvalid as error:
        msg = f"{where} is no CSV file that can be read: {error}. Check the quotation marks"
        raise DataError(msg) from error
    yield [text for _, text in rejected]


def _csv_reader(stream: IO[bytes], names: Sequence[str], delimiter: str, reject: Any) -> Any:
    return pyarrow.csv.open_csv(
        stream,
        # rows are numbered only without threads
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, column_names=names, skip_rows=1, encoding="latin1"
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=reject
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _bytes(row: bytes) -> bytes:
    """Take Latin-1 read as UTF-8 back to the bytes of the file."""
    return row if row.isascii() else row.decode().encode("latin-1")


def _weave(rows: list[bytes], rejected: list[tuple[int, bytes]], done: int) -> int:
    """Put rejected rows where they stood; return the rows of the file that are done."""
    while rejected and rejected[0][0] <= done + len(rows):
        number, text = rejected.pop(0)
        rows.insert(number - done, text)
    return done + len(rows)


def _csv_tokens(name: str, column: pa.Array, numeric: dict[str, bool]) -> pa.Array:
    """Turn the cells of a column into JSON tokens."""
    if numeric.get(name) is False:
        return _quoted(column)
    numbers = pc.match_substring_regex(column, pattern=NUMBER)
    missing = pc.is_in(column, value_set=MISSING)
    if name not in numeric:
        values = len(column) - column.null_count - pc.sum(missing).as_py()
        if values == 0:
            return _quoted(column)
        numeric[name] = pc.sum(numbers).as_py() >= NUMERIC_SHARE * values
        return _csv_tokens(name, column, numeric)
    tokens = pc.if_else(numbers, column, _quoted(column))
    return pc.if_else(missing, pa.scalar(None, pa.binary()), tokens)


def parquet_messages(source: str | IO[bytes], rows: int, where: str) -> Iterator[list[bytes]]:
    """Turn the rows of a Parquet file into JSON messages.

    Numbers stay numbers, null stays null, NaN and infinities become null, times become ISO 8601
    (in UTC, with a ``Z``, where the column has a time zone), nested values nested JSON.

    Parameters
    ----------
    source
        Path, or a file that can seek.
    rows
        Rows to read at once.
    where
        Name of the file, for errors.

    Raises
    ------
    DataError
        If it is no Parquet file, or a column name stands twice.
    """
    try:
        with pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            _check_unique(names, where)
            for batch in file.iter_batches(batch_size=rows):
                yield _objects(names, [_tokens(column) for column in batch.columns])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        msg = f"{where} is no Parquet file that can be read: {error}. Write it again, or as CSV"
        raise DataError(msg) from error


def _tokens(column: pa.Array) -> pa.Array:
    """Turn the values of a column into JSON tokens (binary; null stays null)."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _tokens(column.dictionary_decode())
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
        return column.cast(pa.string()).cast(pa.binary())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string()).cast(pa.binary())
    if pa.types.is_timestamp(kind):
        # without its zone, a timestamp is written in UTC
        text = column.cast(pa.timestamp(kind.unit)).cast(pa.string())
        zone = "" if kind.tz is None else "Z"
        text = pc.binary_join_element_wise(pc.replace_substring(text, " ", "T"), zone, "")
        return _quoted(text.cast(pa.binary()))
    if pa.types.is_date(kind) or pa.types.is_time(kind):
        return _quoted(column.cast(pa.string()).cast(pa.binary()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _quoted(column.cast(pa.binary()))
    values = (None if v is None else msgspec.json.encode(v) for v in column.to_pylist())
    return pa.array(values, pa.binary())


def _quoted(column: pa.Array) -> pa.Array:
    """Make JSON strings of a binary column."""
    if _needs_escapes(column):
        values = column.to_pylist()
        column = pa.array(
            [None if v is None else ESCAPED.sub(_escape, v) for v in values], pa.binary()
        )
    return pc.binary_join_element_wise(b'"', column, b'"', b"")


def _needs_escapes(column: pa.Array) -> bool:
    """Look at all bytes of a binary column at once, four times as fast as value by value."""
    _, offsets, data = column.buffers()
    if len(column) == 0 or data is None:
        return False
    bounds = np.frombuffer(offsets, np.int32)[[column.offset, column.offset + len(column)]]
    text = np.frombuffer(data, np.uint8)[slice(*bounds)]
    return bool(((text < 0x20) | (text == ord('"')) | (text == ord("\\"))).any())


def _escape(match: re.Match[bytes]) -> bytes:
    char = match[0]
    return b"\\" + char if char in b'"\\' else b"\\u%04x" % char[0]


def _objects(names: Sequence[str], columns: Sequence[pa.Array]) -> list[bytes]:
    """Join columns of JSON tokens into JSON objects."""
    parts: list[Any] = []
    for name, column in zip(names, columns, strict=True):
        parts += [(b"," if parts else b"{") + msgspec.json.encode(name) + b":"]
        parts += [pc.fill_null(column, b"null")]
    joined: list[bytes] = pc.binary_join_element_wise(*parts, b"}", b"").to_pylist()
    return joined


def _check_unique(names: Sequence[str], where: str) -> None:
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        msg = f"{where} has several columns named {double[0]!r}: rename all but one"
        raise DataError(msg)
