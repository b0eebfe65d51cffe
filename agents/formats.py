"""The wire formats of records: JSON objects, Arrow IPC streams, plain log lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from agents.arrow import read_rows
from agents.tables import Bad, ColumnTable, Parsed, StructTable
from schemas.config import Limits, Session, Stream

_NON_JSON_NUMBER = re.compile(rb"(?<=[:\[,\s])-?(?:NaN|Infinity)(?=[\s,\]}])")
_Scalar = str | int | float | bool | None


class Format(Protocol):
    """Reads messages; ``values`` are neither empty nor too large."""

    def parse(self, values: Sequence[bytes]) -> Parsed:
        """Parse messages; what is wrong with one stays with it."""
        ...


def format_of(stream: Stream, limits: Limits, label: str | None = None) -> Format:
    """Make the reader of a stream's format; ``label`` is one more field to read."""
    formats: dict[str, type[JsonFormat] | type[ArrowFormat] | type[LinesFormat]] = {
        "json": JsonFormat,
        "arrow": ArrowFormat,
        "lines": LinesFormat,
    }
    types = field_types(stream)
    if label is not None:
        types.setdefault(label, _Scalar)
    return formats[stream.source.format](stream, types, limits)


def field_types(stream: Stream) -> dict[str, Any]:
    """Types of all fields that a stream reads, by name."""
    types: dict[str, Any] = {
        name: float | None if field.type == "number" else _Scalar
        for name, field in stream.fields.items()
    }
    window_id = stream.window.id if isinstance(stream.window, Session) else None
    for name in (stream.key, stream.id, window_id):
        if name is not None and name != "none":
            types.setdefault(name, _Scalar)
    if stream.time.field is not None:
        types.setdefault(stream.time.field, _Scalar)
    return types


class JsonFormat:
    """One JSON object a message; fields that the stream does not declare are skipped.

    Parameters
    ----------
    stream, types
        The stream, and the types of the fields to read by name.
    limits
        Bounds on sizes.
    """

    def __init__(self, stream: Stream, types: dict[str, Any], limits: Limits) -> None:
        self._attributes = {name: f"f{i}" for i, name in enumerate(types)}
        rows: Any = msgspec.defstruct(
            "Row",
            [
                (self._attributes[n], t, msgspec.field(name=n, default=None))
                for n, t in types.items()
            ],
            gc=False,
        )
        self._decoder = msgspec.json.Decoder(rows)

    def parse(self, values: Sequence[bytes]) -> Parsed:
        """Parse all messages at once, or one by one if that fails."""
        joined = b"\n".join(values)
        # a message with a line break in it, legal in JSON, would look like two
        if joined.count(b"\n") == len(values) - 1:
            try:
                rows = self._decoder.decode_lines(joined)
            except (ValueError, RecursionError):  # bad JSON, bad UTF-8, wrong types
                rows = []
            if len(rows) == len(values):
                table = StructTable(rows, self._attributes)
                return Parsed(table, np.arange(len(rows)), [])
        return self._parse_each(values)

    def _parse_each(self, values: Sequence[bytes]) -> Parsed:
        rows: list[Any] = []
        source: list[int] = []
        bad: list[tuple[int, Bad]] = []
        for index, value in enumerate(values):
            row = self._parse_one(value)
            if isinstance(row, Bad):
                bad.append((index, row))
            else:
                rows.append(row)
                source.append(index)
        return Parsed(StructTable(rows, self._attributes), np.array(source, dtype=np.int64), bad)

    def _parse_one(self, value: bytes) -> Any:
        try:
            return self._decoder.decode(value)
        except msgspec.ValidationError as error:
            return Bad("wrong_type", self._named(str(error)))
        except UnicodeDecodeError as error:
            return Bad("not_utf8", str(error))
        except RecursionError:
            return Bad("not_json", "nested too deeply")
        except msgspec.DecodeError as error:
            # Python's json writes NaN and Infinity, which JSON does not know: they are missing
            repaired = _NON_JSON_NUMBER.sub(b"null", value)
            if repaired != value:
                return self._parse_one(repaired)
            return Bad("not_json", str(error))

    def _named(self, text: str) -> str:
        """Keep the message of the codec, which names the field by its path, free of quotes."""
        return text.replace("`", "").replace("$.", "")


class ArrowFormat:
    """An Arrow IPC stream a message, of any number of records: the fast lane.

    Parameters
    ----------
    stream, types
        The stream, and the types of the columns to read by name; others are skipped.
    limits
        Bounds on sizes.
    """

    def __init__(self, stream: Stream, types: dict[str, Any], limits: Limits) -> None:
        self._types = types
        self._longest = max(limits.text_bytes, limits.key_bytes)

    def parse(self, values: Sequence[bytes]) -> Parsed:
        """Parse message by message and join the columns."""
        parts: list[dict[str, Sequence[Any]]] = []
        source: list[int] = []
        bad: list[tuple[int, Bad]] = []
        for index, value in enumerate(values):
            part = read_rows(value, self._types, self._longest)
            if isinstance(part, Bad):
                bad.append((index, part))
                continue
            parts.append(part.columns)
            source += [index] * part.rows
        joined = {name: [v for part in parts for v in part[name]] for name in self._types}
        return Parsed(ColumnTable(joined, len(source)), np.array(source, dtype=np.int64), bad)


class LinesFormat:
    """A plain log line a message, read by a regular expression with a group for each field.

    Only the beginning of a long line is read: matching may take time that grows with the square of
    the length, or worse where a pattern repeats what repeats itself.

    Parameters
    ----------
    stream, types
        The stream with its pattern, and the types of the groups to read by name.
    limits
        Bounds on sizes.
    """

    def __init__(self, stream: Stream, types: dict[str, Any], limits: Limits) -> None:
        self._longest = limits.line_bytes
        self._pattern = re.compile(stream.source.pattern or "")
        self._types = types

    def parse(self, values: Sequence[bytes]) -> Parsed:
        """Match line by line."""
        columns: dict[str, list[Any]] = {name: [] for name in self._types}
        source: list[int] = []
        bad: list[tuple[int, Bad]] = []
        for index, value in enumerate(values):
            row = self._parse_one(value)
            if isinstance(row, Bad):
                bad.append((index, row))
                continue
            source.append(index)
            for name, column in columns.items():
                column.append(row[name])
        return Parsed(ColumnTable(columns, len(source)), np.array(source, dtype=np.int64), bad)

    def _parse_one(self, value: bytes) -> dict[str, Any] | Bad:
        try:
            line = value.decode().rstrip("\r\n")[: self._longest]
        except UnicodeDecodeError as error:
            return Bad("not_utf8", str(error))
        match = self._pattern.search(line)
        if match is None:
            return Bad("no_match", "the line does not match the stream's pattern")
        row: dict[str, Any] = match.groupdict()
        for name, kind in self._types.items():
            if kind == (float | None) and row[name] is not None:
                try:
                    row[name] = float(row[name])
                except ValueError:
                    return Bad("wrong_type", f"{name}: expected a number, got {row[name][:40]!r}")
        return row
