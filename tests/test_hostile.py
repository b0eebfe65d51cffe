"""A hostile producer: whatever it sends, every other record is used and memory stays bounded."""

from __future__ import annotations

import io
import re
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import snapshot
from agents.arrow import read_rows
from agents.decode import Decoder
from agents.pipeline import Pipeline
from agents.snapshot import pack, unpack
from agents.tables import Bad
from agents.templates import CodeCache, TemplateMatcher, mask
from connectors.base import flatten
from connectors.kafka.origin import decode_origin
from schemas.errors import DataError
from schemas.messages import DeadLetter
from tests.pipelines import START_MS, config, fetch

MEGABYTE = 1 << 20
FIELDS = {"amount": "number", "country": "category", "line": "text"}
PATTERN = (
    r"(?P<ts>\S+) (?P<card>\S*) (?P<amount>\S*) (?P<country>\S*) (?P<session>\S*) (?P<line>.*)"
)
STREAMS: dict[str, dict[str, Any]] = {
    "json": {"fields": FIELDS, "id": "session"},
    "arrow": {"fields": FIELDS, "source": {"topic": "payments", "format": "arrow"}},
    "lines": {
        "fields": FIELDS,
        "source": {"topic": "payments", "format": "lines", "pattern": PATTERN},
    },
    "iso": {"fields": FIELDS, "time": {"field": "ts", "unit": "iso"}},
    "strptime": {"fields": FIELDS, "time": {"field": "ts", "format": "%Y-%m-%d %H:%M:%S%z"}},
    "tumbling": {"window": {"kind": "tumbling", "length": "10s"}, "lateness": "5s"},
    "session": {
        "fields": {**FIELDS, "amount": {"type": "number", "transform": "rate"}},
        "derive": ["gap", "time_of_day"],
        "window": {"kind": "session", "gap": "2s", "size": 4, "id": "session"},
    },
    "difference": {
        "fields": {**FIELDS, "amount": {"type": "number", "transform": "difference"}},
        "derive": ["gap"],
    },
}


def record(number: int, kind: str) -> dict[str, Any]:
    ts: Any = START_MS + 1000 * number
    if kind == "iso":
        ts = f"2024-05-05T10:10:{number:02d}Z"
    elif kind == "strptime":
        ts = f"2024-05-05 10:10:{number:02d}+0200"
    return {
        "card": f"card-{number % 3}",
        "ts": ts,
        "amount": 50.0 + number,
        "country": "AT",
        "session": f"s{number}",
        "line": f"user {number} logged in",
    }


def as_arrow(rows: Sequence[dict[str, Any]] | pa.Table, **options: Any) -> bytes:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table)
    return sink.getvalue()


def message(fields: dict[str, Any], kind: str) -> bytes:
    if kind == "arrow":
        return as_arrow([fields])
    if kind == "lines":
        names = ("ts", "card", "amount", "country", "session", "line")
        return " ".join(str(fields[name]) for name in names).encode()
    return msgspec.json.encode(fields)


GOOD = {kind: [message(record(i, kind), kind) for i in range(8)] for kind in STREAMS}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.sampled_from([2**63, -(2**63) - 1, 10**30, 1e308, -1e308, 5e-324, "NaN", "1e999", "-1"]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]),
    st.sampled_from(["2024-W01", "0" * 99, "+5", "1_0", "\x00"]),
)
things = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn, kind: str) -> bytes:
    """A valid message in which some bytes are changed, cut, repeated or moved."""
    data = bytearray(draw(st.sampled_from(GOOD[kind])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        end = draw(st.integers(at, min(len(data), at + 16)))
        change = draw(st.sampled_from(["set", "cut", "repeat", "insert", "truncate"]))
        if change == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif change == "cut":
            del data[at:end]
        elif change == "repeat":
            data[at:at] = data[at:end] * draw(st.integers(1, 20))
        elif change == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        else:
            del data[at:]
    return bytes(data)


@st.composite
def odd_json(draw: st.DrawFn, kind: str) -> bytes:
    """A record with anything at all in some of its fields."""
    fields = record(draw(st.integers(0, 7)), kind)
    for name in draw(st.sets(st.sampled_from(sorted(fields)), min_size=1)):
        fields[name] = draw(things)
    text = repr_json(fields)
    return draw(st.sampled_from([text, text.replace(b"\\u", b"\\ud8"), text + b"\n" + text]))


def repr_json(value: Any) -> bytes:
    """JSON of numbers of any size, which msgspec would refuse to write."""
    if isinstance(value, dict):
        items = (msgspec.json.encode(str(k)) + b":" + repr_json(v) for k, v in value.items())
        return b"{" + b",".join(items) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(repr_json, value)) + b"]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value).encode()
    return msgspec.json.encode(value)


def hostile(kind: str) -> st.SearchStrategy[bytes]:
    found = [st.binary(max_size=200), mutated(kind)]
    if kind not in ("arrow", "lines"):
        found.append(odd_json(kind))
    return st.one_of(found)


@pytest.mark.parametrize("kind", STREAMS)
@given(data=st.data())
@settings(max_examples=60)
def test_no_message_takes_another_with_it(kind: str, data: st.DataObject) -> None:
    bad = data.draw(st.lists(hostile(kind), min_size=1, max_size=5))
    places = data.draw(st.lists(st.integers(0, 8), min_size=len(bad), max_size=len(bad)))
    check(kind, bad, places)


def check(kind: str, bad: list[bytes], places: list[int]) -> None:
    good = GOOD[kind]
    values: list[bytes | None] = []
    for number in range(len(good) + 1):
        values += [value for value, at in zip(bad, places, strict=True) if at == number]
        values += good[number : number + 1]
    made = config(**STREAMS[kind])
    offsets = [i for i, value in enumerate(values) if any(value is x for x in good)]
    decoded = Decoder("payments", made.streams["payments"], made.limits)(fetch(values))
    found = set(decoded.records.offset.tolist())
    assert found >= set(offsets)
    letters = {letter.offset for letter in decoded.dead_letters}
    assert not letters & set(offsets)
    assert np.isfinite(decoded.records.time.astype(float)).all()
    # and through all steps, in one fetch or in many
    whole, single = Pipeline(made, lambda: 0), Pipeline(made, lambda: 0)
    outputs = flatten(whole.process([fetch(values)]).outputs) + flatten(whole.finish().outputs)
    for at, value in enumerate(values):
        single.process([fetch([value], first=at)])
    assert whole.totals()["payments"].balanced
    single.finish()
    assert single.accounts() == whole.accounts()
    for output in outputs:
        if output.topic == "eddy.dead-letters":
            letter = msgspec.json.decode(output.value, type=DeadLetter)
            assert values[letter.offset] is not None
    # the state of it all can be kept and found again
    state = whole.snapshot(fetch([]).partition)
    assert unpack(b"".join(pack(state))).keys() == state.keys()


# -- Arrow messages that stand for more than they hold ---------------------------------------


def compressed_zeros() -> bytes:
    return as_arrow(pa.table({"line": ["a" * 30 * MEGABYTE]}), compression="zstd")


def rows_without_bytes() -> bytes:
    return as_arrow(pa.table({"x": pa.nulls(50_000_000)}))


def no_columns() -> bytes:
    batch = pa.RecordBatch.from_struct_array(pa.array([{}] * 100, pa.struct([])))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as out:
        for _ in range(1000):
            out.write_batch(batch)
    return sink.getvalue()


def one_long_value_for_all() -> bytes:
    index = pa.array(np.zeros(400_000, dtype=np.int8))
    return as_arrow(pa.table({"line": pa.DictionaryArray.from_arrays(index, ["x" * 400_000])}))


def views_of_one_value() -> bytes:
    return as_arrow(pa.table({"line": pa.array(["y" * 500_000] * 2, pa.string_view())}))


def run_ends() -> bytes:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2_000_000_000], pa.int32()), ["x" * 5000])
    return as_arrow(pa.table({"line": runs}))


def nested() -> bytes:
    inner: Any = pa.array([1])
    for _ in range(40):
        inner = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), inner)
    return as_arrow(pa.table({"line": inner}))


TYPES: dict[str, Any] = {"line": str | int | float | bool | None, "amount": float | None}


@contextmanager
def allocating(most: int) -> Iterator[None]:
    """Python's own allocations stay below a bound; Arrow's are bounded before they are made."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("bomb", "reason"),
    [
        (compressed_zeros, "too_large"),
        (rows_without_bytes, "too_large"),
        (no_columns, "too_large"),
        (one_long_value_for_all, None),
        (views_of_one_value, "wrong_type"),
        (run_ends, "too_large"),
        (nested, "wrong_type"),
    ],
)
def test_arrow_messages_that_expand_are_refused_before_they_do(
    bomb: Callable[[], bytes], reason: str | None
) -> None:
    data = bomb()
    assert len(data) < MEGABYTE * (6 if bomb is views_of_one_value else 1)
    with allocating(40 * MEGABYTE):
        found = read_rows(data, TYPES, 4096)
        if isinstance(found, Bad):
            assert found.reason == reason
        else:
            assert reason is None
            assert max(len(value or "") for value in found.columns["line"]) <= 4097


def test_arrow_messages_of_real_records_are_no_bombs() -> None:
    rows = [record(i % 60, "json") for i in range(3000)]
    for options in ({}, {"compression": "zstd"}, {"compression": "lz4"}):
        found = read_rows(as_arrow(rows, **options), TYPES, 4096)
        assert not isinstance(found, Bad)
        assert found.rows == 3000
        assert found.columns["amount"] == [row["amount"] for row in rows]
        assert found.columns["line"] == [row["line"] for row in rows]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array([1, None], pa.timestamp("ms")), [1, None]),
        (pa.array([True, None]), [True, None]),
        (pa.nulls(2), [None, None]),
        (pa.array([0, None], pa.date32()), ["1970-01-01", None]),
        (pa.array([None, [1]], pa.list_(pa.int8())), "wrong_type"),
        (pa.array([b"x", None]), "wrong_type"),
        (pa.array([1, None], pa.duration("s")), "wrong_type"),
        (pa.array([{"a": 1}]), "wrong_type"),
    ],
)
def test_arrow_columns_are_scalars(column: pa.Array, expected: Any) -> None:
    found = read_rows(as_arrow(pa.table({"line": column})), TYPES, 4096)
    told = found.reason if isinstance(found, Bad) else found.columns["line"]
    assert told == expected


def test_an_arrow_column_whose_name_is_no_text_is_refused() -> None:
    data = as_arrow([record(1, "arrow")]).replace(b"country", b"countr\xff")
    found = read_rows(data, TYPES, 4096)
    assert isinstance(found, Bad)
    assert found.reason == "not_arrow"


def test_an_arrow_column_given_twice_is_refused() -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["line", "line"])
    found = read_rows(as_arrow(table), TYPES, 4096)
    assert isinstance(found, Bad)
    assert found.reason == "wrong_type"


# -- what stays in memory --------------------------------------------------------------------


@pytest.mark.parametrize("field", ["card", "id", "session"])
def test_what_is_remembered_is_short(field: str) -> None:
    window = {"kind": "session", "id": "session"}
    made = config(id="id", window=window)
    decoder = Decoder("payments", made.streams["payments"], made.limits)
    fields = record(1, "json") | {"id": "n1"}
    values = [
        msgspec.json.encode(fields | {field: text})
        for text in ("k" * 1024, "k" * 1025, "ü" * 512, "ü" * 513, "k" * MEGABYTE)
    ]
    decoded = decoder(fetch(list(values)))
    assert decoded.records.offset.tolist() == [0, 2]
    assert [letter.offset for letter in decoded.dead_letters] == [1, 3, 4]
    assert {letter.reason for letter in decoded.dead_letters} == {"too_large"}
    assert decoded.dead_letters[0].detail == f"{field}: 1025 bytes, the limit is 1024"
    if field == "card":
        keys = decoder.message_keys(values)
        assert [key is None for key in keys] == [False, True, False, True, True]


def test_long_categories_and_texts_are_cut() -> None:
    made = config(fields=FIELDS)
    decoder = Decoder("payments", made.streams["payments"], made.limits)
    fields = record(1, "json") | {"country": "c" * 9999, "line": "l" * 9999}
    records = decoder(fetch([msgspec.json.encode(fields)])).records
    assert records.categories == (["c" * 4096],)
    assert records.texts == (["l" * 4096],)


def test_memories_of_codes_are_bounded_by_size_and_change_nothing() -> None:
    codes, matcher = CodeCache(), TemplateMatcher(["a <*>"])
    with allocating(120 * MEGABYTE):
        for start in range(0, 20_000, 100):
            lines = [f"{chr(97 + i % 26) * 4000} {start + i:x}" for i in range(start, start + 100)]
            assert codes(lines).tolist() == CodeCache()(lines).tolist()
            assert matcher.codes(lines).tolist() == TemplateMatcher().codes(lines).tolist()


def test_origins_that_nobody_wrote_are_refused() -> None:
    good = b"\x01" + (5).to_bytes(4, "big") + (7).to_bytes(8, "big")
    assert decode_origin(good + b"t" * 249) == ("t" * 249, 5, 7)
    for bad in (good + b"t" * 250, b"\x01" + (2**30).to_bytes(4, "big") + good[5:] + b"t"):
        with pytest.raises(ValueError, match="not an eddy-origin header"):
            decode_origin(bad)


# -- time ------------------------------------------------------------------------------------


def test_masking_takes_time_in_proportion() -> None:
    """Counted in what the expression looks at: a long word once, not once from each letter."""
    assert mask("a" * 200_000) == "a" * 200_000
    assert mask("ab1=c2d; e") == "<*>=<*>; e"
    assert mask("x" * 100_000 + "1 b") == "<*> b"


@given(st.text(alphabet='ab1 =:"[٣.\n', max_size=20))
def test_masking_is_what_it_was(line: str) -> None:
    letter = r"[^\s=:\[\](){}\",;]"
    assert mask(line) == re.sub(rf"{letter}*\d{letter}*", "<*>", line)


def test_only_the_beginning_of_a_line_is_matched() -> None:
    made = config(**STREAMS["lines"])
    decoder = Decoder("payments", made.streams["payments"], made.limits)
    line = message(record(1, "lines"), "lines")
    decoded = decoder(fetch([line + b" " * 500_000 + b"x", b"a" * 500_000]))
    assert len(decoded.records) == 1
    assert [letter.reason for letter in decoded.dead_letters] == ["no_match"]


# -- snapshots -------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.integers(0, 2**64 - 1))
def test_bytes_that_only_look_like_a_snapshot_are_refused(body: bytes, size: int) -> None:
    content = [size.to_bytes(8, "big") + body, len(body).to_bytes(8, "big") + body]
    bodies = [body, *(zstandard.ZstdCompressor().compress(x) for x in content)]
    for made in bodies:
        header = snapshot._HEADER.pack(
            snapshot._MAGIC, snapshot.VERSION, len(made), snapshot._checksum([made])
        )
        try:
            unpack(header + made)
        except DataError:
            continue
        assert body[:1] == b"\x80"  # an empty tree
