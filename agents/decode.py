"""decode: the raw bytes of a fetch become columns; what cannot be used becomes a dead letter.

A bad record never raises and never takes a neighbour with it: the whole fetch is tried at once,
and only if something in it is wrong are its records tried one by one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.formats import format_of
from agents.records import Decoded, Ints, Records
from agents.tables import Bad, Table, as_floats, as_strings
from agents.times import BAD_TIME, parse_times
from connectors.base import Fetch, Origin
from schemas.config import Limits, Session, Stream
from schemas.messages import DeadLetter


class Decoder:
    """Decodes the records of one stream; has no state that outlives a call.

    Parameters
    ----------
    name, stream
        The stream and its configuration.
    limits
        Bounds on sizes and times.
    label
        A field that holds each record's label, for measuring; it is never a feature.
    now
        For records without a time of the log, as those of files: no event is later than this time
        of reading (ns since 1970 UTC) by more than ``max_future``.
    """

    def __init__(
        self,
        name: str,
        stream: Stream,
        limits: Limits,
        label: str | None = None,
        now: int | None = None,
    ) -> None:
        self.name = name
        self._now = now
        self._label = label
        self.stream = stream
        self.limits = limits
        self._format = format_of(stream, limits, label)
        self._packed = stream.source.format == "arrow"  # its texts may be longer than the message
        self._required = [n for n, field in stream.fields.items() if field.required]

    def __call__(self, fetch: Fetch) -> Decoded:
        """Decode a fetch."""
        good, bad, filtered, longest = self._sift(fetch)
        whole = len(good) == len(fetch)
        values: Any = fetch.values if whole else [fetch.values[i] for i in good]
        parsed = self._format.parse(values)
        source = parsed.source if whole else np.asarray(good, dtype=np.int64)[parsed.source]
        bad += [(good[i], why) for i, why in parsed.bad]
        records, unusable = self._records(fetch, parsed.table, source, longest)
        letters = sorted([*bad, *unusable], key=lambda pair: pair[0])
        return Decoded(records, [self._letter(fetch, *pair) for pair in letters], filtered)

    def keys(self, fetch: Fetch) -> list[str | None]:
        """Entity key of each record of a fetch, ``None`` where none can be read."""
        return self.message_keys(fetch.values)

    def message_keys(self, values: Sequence[bytes | None]) -> list[str | None]:
        """Entity key of each message, ``None`` where none can be read."""
        return self._spread_keys(*self._parse(values), len(values))

    def keys_and_times(self, values: Sequence[bytes | None]) -> tuple[list[str | None], Ints]:
        """Entity key and event time of each message, for sending it.

        Returns
        -------
        keys
            ``n`` keys, ``None`` where none can be read.
        times
            ``[n]`` ns since 1970 UTC, of a message with several records the latest; 0 where no
            time can be read, or the stream has none of its own.
        """
        table, message = self._parse(values)
        times = np.zeros(len(values), dtype=np.int64)
        if self.stream.time.field is not None:
            raw = table.column(self.stream.time.field)
            found, _ = parse_times(self.stream.time, raw, np.zeros(len(table), dtype=np.int64))
            np.maximum.at(times, message, found)
        return self._spread_keys(table, message, len(values)), times

    def late(self, fetch: Fetch, offsets: Ints, behind: Ints) -> list[DeadLetter]:
        """Make dead letters of the records that came too late for their windows.

        Parameters
        ----------
        offsets, behind
            ``[k]`` where they stand, and how far behind the newest event time they were, ns.
        """
        letters = []
        index = np.searchsorted(fetch.offsets, offsets)
        for at, far in zip(index.tolist(), behind.tolist(), strict=True):
            why = Bad("late", f"{far / 1e9:.10g} s behind the newest event time")
            letters.append(self._letter(fetch, at, why))
        return letters

    def _parse(self, values: Sequence[bytes | None]) -> tuple[Table, Ints]:
        """Parse what can be; return the rows, and the index of each row's message."""
        limit = self.limits.message_bytes
        valid = [i for i, value in enumerate(values) if value and len(value) <= limit]
        parsed = self._format.parse([value for value in values if value and len(value) <= limit])
        return parsed.table, np.asarray(valid, dtype=np.int64)[parsed.source]

    def _spread_keys(self, table: Table, message: Ints, count: int) -> list[str | None]:
        keys: list[str | None] = [None] * count
        found, limit = self._keys(table), self.limits.key_bytes
        long = dict(_too_long(found, limit))
        for row, (key, index) in enumerate(zip(found, message.tolist(), strict=True)):
            keys[index] = None if row in long else key
        return keys

    def _sift(self, fetch: Fetch) -> tuple[Sequence[int], list[tuple[int, Bad]], int, int]:
        """Tell messages worth parsing from tombstones, empty and oversized ones.

        Last comes how long a text can be that stands in one of them.
        """
        limit = self.limits.message_bytes
        sizes = [-1 if value is None else len(value) for value in fetch.values]
        if sizes and min(sizes) > 0 and (largest := max(sizes)) <= limit:
            return range(len(sizes)), [], 0, sys.maxsize if self._packed else largest
        bad = []
        for index, size in enumerate(sizes):
            if size == 0:
                bad.append((index, Bad("empty", "the message has no bytes")))
            elif size > limit:
                bad.append((index, Bad("too_large", f"{size} bytes, the limit is {limit}")))
        good = [index for index, size in enumerate(sizes) if 0 < size <= limit]
        return good, bad, sizes.count(-1), sys.maxsize

    def _keys(self, table: Table) -> Sequence[str | None]:
        if self.stream.key == "none":
            return [""] * len(table)
        return as_strings(table.column(self.stream.key))

    def _records(
        self, fetch: Fetch, table: Table, source: Ints, longest: int
    ) -> tuple[Records, list[tuple[int, Bad]]]:
        """Make columns, then weed out the rows whose key, time or required field is amiss."""
        stream = self.stream
        limit = self.limits.text_bytes if longest > self.limits.text_bytes else None
        log_time = fetch.timestamps[source]
        raw = None if stream.time.field is None else table.column(stream.time.field)
        time, problems = parse_times(stream.time, raw, log_time)
        # files have no time of the log; the event time stands in
        latest = np.where(log_time > 0, log_time, time if self._now is None else self._now)
        log_time = np.where(log_time > 0, log_time, time)
        keys = self._keys(table)
        numbers = [as_floats(table.column(name)) for name in stream.of_type("number")]
        records = Records(
            partition=fetch.partition,
            offset=fetch.offsets[source],
            log_time=log_time,
            time=time,
            key=keys,  # type: ignore[arg-type]  # rows without one are weeded out below
            numbers=np.stack(numbers, axis=1) if numbers else np.empty((len(table), 0)),
            categories=tuple(_cut(table.column(n), limit) for n in stream.of_type("category")),
            texts=tuple(_cut(table.column(n), limit) for n in stream.of_type("text")),
            session=self._sessions(table),
            ids=None if stream.id is None else as_strings(table.column(stream.id)),
            origins=_pick(fetch.origins, source),
            row=_rows_within(source) if stream.source.format == "arrow" else None,
            labels=None if self._label is None else _as_labels(table.column(self._label)),
        )
        bad: dict[int, Bad] = {}
        for index in map(int, np.flatnonzero(problems)):
            reason: Any = "bad_time" if problems[index] == BAD_TIME else "missing_time"
            shown = "" if raw is None else repr(raw[index])[:100]
            bad[index] = Bad(reason, f"{stream.time.field}: {shown}")
        for index in map(int, np.flatnonzero(time > latest + int(self.limits.max_future))):
            ahead = (int(time[index]) - int(latest[index])) // 10**9
            bad.setdefault(index, Bad("future_time", f"{ahead} s ahead of the log's time"))
        self._weed(table, keys, bad)
        if longest > self.limits.key_bytes:
            self._weed_long(records, bad)
        if not bad:
            return records, []
        keep = np.ones(len(table), dtype=bool)
        keep[list(bad)] = False
        return records.select(keep), [(int(source[i]), why) for i, why in bad.items()]

    def _weed(self, table: Table, keys: Sequence[str | None], bad: dict[int, Bad]) -> None:
        """Mark rows without a key or a required field."""
        if self.stream.key != "none" and (None in keys or "" in keys):
            for index, key in enumerate(keys):
                if not key:
                    bad.setdefault(index, Bad("missing_key", f"no {self.stream.key!r}"))
        for name in self._required:
            for index, value in enumerate(table.column(name)):
                if value is None or value != value:
                    bad.setdefault(index, Bad("missing_required", f"no {name!r}"))

    def _weed_long(self, records: Records, bad: dict[int, Bad]) -> None:
        """Mark rows with a key, id or session id that is too long to be kept in memory."""
        limit, window = self.limits.key_bytes, self.stream.window
        session = window.id if isinstance(window, Session) else None
        kept = {self.stream.key: records.key, self.stream.id: records.ids}
        kept[session] = records.session
        for name, values in kept.items():
            for index, size in _too_long(values or (), limit):
                bad.setdefault(
                    index, Bad("too_large", f"{name}: {size} bytes, the limit is {limit}")
                )

    def _sessions(self, table: Table) -> Sequence[str] | None:
        window = self.stream.window
        if not isinstance(window, Session) or window.id is None:
            return None
        return [value or "" for value in as_strings(table.column(window.id))]

    def _letter(self, fetch: Fetch, index: int, why: Bad) -> DeadLetter:
        topic, number = fetch.partition
        offset = int(fetch.offsets[index])
        if fetch.origins is not None:
            topic, number, offset = fetch.origins[index]
        value = fetch.values[index] or b""
        return DeadLetter(
            stream=self.name,
            reason=why.reason,
            detail=why.detail,
            topic=topic,
            partition=number,
            offset=offset,
            original=value[: self.limits.dead_letter_bytes],
            original_size=len(value),
        )


def _cut(column: Sequence[Any], limit: int | None) -> Sequence[str | None]:
    """Make strings, and keep the beginning of long ones; without a limit, there are none."""
    strings = as_strings(column)
    if limit is None or max(map(len, filter(None, strings)), default=0) <= limit:
        return strings
    return [value if value is None else value[:limit] for value in strings]


def _too_long(strings: Sequence[str | None], limit: int) -> list[tuple[int, int]]:
    """Return index and bytes of the strings whose UTF-8 is longer than ``limit`` bytes."""
    most_bytes = 4  # of a character
    if max(map(len, filter(None, strings)), default=0) * most_bytes <= limit:
        return []
    sizes = ((i, len(value.encode())) for i, value in enumerate(strings) if value)
    return [(index, size) for index, size in sizes if size > limit]


def _rows_within(source: Ints) -> Ints:
    """Count the rows of each message from 0; ``source`` holds the message of each row."""
    first = np.searchsorted(source, source, side="left")
    return np.arange(len(source)) - first


def _pick(origins: Sequence[Origin] | None, source: Ints) -> Sequence[Origin] | None:
    return None if origins is None else [origins[int(index)] for index in source]


def _as_labels(column: Sequence[Any]) -> NDArray[np.int8]:
    """1 for an anomaly, 0 for a normal record, -1 where nothing is said."""
    names = {None: -1, "": -1, "0": 0, "0.0": 0, "false": 0, "normal": 0, "-": 0, "-1": -1}
    known = {
        value: names.get(str(value).lower() if value is not None else None, 1)
        for value in set(column)
    }
    return np.array([known[value] for value in column], dtype=np.int8)
