"""Messages out of files of every format, and outputs into a file."""

import datetime
import decimal
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors import files
from connectors.base import Output
from connectors.files import FileSink, FileSource, expand, format_of, read_messages
from schemas.errors import DataError, SetupError

REUSED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def read(path: Path | str | list[Path | str], **options: Any) -> list[bytes]:
    return [message for chunk in read_messages(path, **options) for message in chunk]


def read_json(path: Path, **options: Any) -> list[Any]:
    return [json.loads(message) for message in read(path, **options)]


def zstd(data: bytes) -> bytes:
    compressed: bytes = pa.Codec("zstd").compress(data).to_pybytes()
    return compressed


@pytest.fixture(params=["", ".gz", ".zst"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write a file as it is, or compressed."""

    def write(name: str, data: bytes) -> Path:
        path: Path = tmp_path / (name + request.param)
        pack: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}
        path.write_bytes(pack[request.param](data))
        return path

    return write


Store = Callable[[str, bytes], Path]


# -- lines ------------------------------------------------------------------------------------


def test_a_line_is_a_message(store: Store) -> None:
    path = store("a.jsonl", b'{"a":1}\n{"a":2}\r\n\nno json \xff\xfe\n{"a":3}')
    assert read(path) == [b'{"a":1}', b'{"a":2}', b"", b"no json \xff\xfe", b'{"a":3}']


def test_empty_files_have_no_messages(store: Store) -> None:
    for name in ("a.jsonl", "a.log", "a.csv"):
        assert read(store(name, b"")) == []


def test_a_mark_of_byte_order_is_no_part_of_the_first_message(store: Store) -> None:
    assert read(store("a.jsonl", b"\xef\xbb\xbf{}\n\xef\xbb\xbf{}\n")) == [b"{}", b"\xef\xbb\xbf{}"]


@given(st.lists(st.binary(max_size=20).filter(lambda b: not {10, 13} & set(b)), max_size=20))
@REUSED
def test_lines_do_not_depend_on_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[bytes]
) -> None:
    path = tmp_path / "lines.log"
    path.write_bytes(b"x\n" + b"".join(line + b"\n" for line in lines))
    for block in (1, 2, 3, 7):
        monkeypatch.setattr(files, "BLOCK_BYTES", block)
        assert read(path) == [b"x", *lines]
        assert read(path, max_bytes=4) == [b"x", *(line[:5] for line in lines)]


def test_of_a_long_line_only_the_beginning_is_kept(store: Store) -> None:
    path = store("a.jsonl", b"short\n" + b"x" * 3_000_000 + b"\r\nnext\n" + b"y" * 200)
    assert read(path, max_bytes=100) == [b"short", b"x" * 101, b"next", b"y" * 101]
    assert read(path, max_bytes=200)[3] == b"y" * 200


def test_chunks_go_on_from_file_to_file(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.log").write_bytes(b"".join(b"%d\n" % n for n in range(5)))
    chunks = list(read_messages([tmp_path / "b.log", tmp_path / "a.log"], chunk=4))
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert b"".join(b"".join(chunk) for chunk in chunks) == b"0123401234"


def test_several_members_in_one_compressed_file(tmp_path: Path) -> None:
    (tmp_path / "a.log.gz").write_bytes(gzip.compress(b"1\n2") + gzip.compress(b"3\n"))
    (tmp_path / "b.log.zst").write_bytes(zstd(b"4\n") + zstd(b"5\n"))
    assert read(str(tmp_path / "*.log.*")) == [b"1", b"23", b"4", b"5"]


# -- CSV --------------------------------------------------------------------------------------


def test_csv_rows_become_json(store: Store) -> None:
    text = 'id,amount,note,when\n1,2.50,"a ""b"", c",2024-01-01 10:00:00\n2,,,\n-3,1e5,"",x\n'
    assert read_json(store("a.csv", text.encode())) == [
        {"id": 1, "amount": 2.5, "note": 'a "b", c', "when": "2024-01-01 10:00:00"},
        {"id": 2, "amount": None, "note": None, "when": None},
        {"id": -3, "amount": 1e5, "note": "", "when": "x"},
    ]


def test_csv_numbers_are_copied_digit_by_digit(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n12345678901234567890,0.10000000000000000001\n")
    assert read(tmp_path / "a.csv") == [b'{"a":12345678901234567890,"b":0.10000000000000000001}']


def test_a_csv_column_of_numbers_survives_junk(tmp_path: Path) -> None:
    cells = [*map(str, range(20)), "?", "NA", "nan", "21"]
    (tmp_path / "a.csv").write_text("n,x\n" + "".join(f"{cell},1\n" for cell in cells))
    values = [row["n"] for row in read_json(tmp_path / "a.csv")]
    assert values == [*range(20), "?", None, None, 21]


def test_csv_text_stays_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("zip,land\n00123,NA\n04567,null\n12345,DE\n")
    assert read_json(tmp_path / "a.csv") == [
        {"zip": "00123", "land": "NA"},
        {"zip": "04567", "land": "null"},
        {"zip": "12345", "land": "DE"},
    ]


def test_csv_rows_of_another_width_pass_as_they_stand(store: Store) -> None:
    path = store("a.csv", b"a,b\n1,2\n3\n4,5,\xff6\n\n7,8\n9\n")
    assert read(path) == [b'{"a":1,"b":2}', b"3", b"4,5,\xff6", b'{"a":7,"b":8}', b"9"]


def test_csv_keeps_bytes_that_are_not_utf8(store: Store) -> None:
    path = store("a.csv", "name,ä\nJosé,1\n".encode() + b"Jos\xe9,2\n")
    assert read(path) == ['{"name":"José","ä":1}'.encode(), b'{"name":"Jos\xe9","\xc3\xa4":2}']


def test_csv_control_characters_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a,b\n"x\ny",\\\n\t,"\x01"\n')
    assert read(tmp_path / "a.csv") == [
        b'{"a":"x\\u000ay","b":"\\\\"}',
        b'{"a":"\\u0009","b":"\\u0001"}',
    ]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_csv_delimiters(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "a.tsv").write_text(f"\ufeffa{delimiter}b\r\n1{delimiter}x,y\r\n")
    assert read_json(tmp_path / "a.tsv") == [{"a": 1, "b": "x,y"}]


def test_csv_over_many_blocks_keeps_order_and_types(tmp_path: Path) -> None:
    rows = [f"{n},{'name' if n % 1000 == 0 else n}" for n in range(200_000)]
    rows[150_000:150_000] = ["junk"]
    (tmp_path / "a.csv").write_text("n,m\n" + "\n".join(rows) + "\n")
    messages = read(tmp_path / "a.csv")
    assert messages[150_000] == b"junk"
    del messages[150_000]
    assert messages[:2] == [b'{"n":0,"m":"name"}', b'{"n":1,"m":1}']
    assert [json.loads(message)["n"] for message in messages] == list(range(200_000))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"a,b,a\n1,2,3\n", "several columns named 'a'"),
        (b'a,b\n1,"' + b"x\n" * 2_000_000, "quotation marks"),
        (b"\x00" * 100_000, "first line is longer"),
    ],
)
def test_csv_that_cannot_be_read(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"a.csv.*{match}"):
        read(tmp_path / "a.csv")


# -- Parquet ----------------------------------------------------------------------------------


def parquet(table: pa.Table, **options: Any) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, **options)
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def test_parquet_rows_become_json(store: Store) -> None:
    utc = datetime.UTC
    table = pa.table(
        {
            "i": pa.array([1, None, 3], pa.int32()),
            "f": pa.array([0.5, float("nan"), float("inf")]),
            "s": ['say "ä"\\\n', None, ""],
            "d": pa.array(["x", "y", "x"]).dictionary_encode(),
            "b": [True, None, False],
            "t": pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5)] * 3, pa.timestamp("ms")),  # noqa: DTZ001
            "z": pa.array(
                [datetime.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=utc)] * 3,
                pa.timestamp("us", "Europe/Berlin"),
            ),
            "day": [datetime.date(2024, 1, 2)] * 3,
            "m": [decimal.Decimal("1.50")] * 3,
            "l": [[1, 2], None, []],
        }
    )
    always = {
        "t": "2024-01-02T03:04:05.000",
        "z": "2024-01-02T03:04:05.000006Z",
        "day": "2024-01-02",
        "m": 1.5,
    }
    assert read_json(store("a.parquet", parquet(table))) == [
        {"i": 1, "f": 0.5, "s": 'say "ä"\\\n', "d": "x", "b": True, "l": [1, 2]} | always,
        {"i": None, "f": None, "s": None, "d": "y", "b": None, "l": None} | always,
        {"i": 3, "f": None, "s": "", "d": "x", "b": False, "l": []} | always,
    ]


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
            st.none() | st.text(max_size=10),
        ),
        min_size=1,
        max_size=20,
    )
)
@REUSED
def test_parquet_values_come_back(tmp_path: Path, rows: list[tuple[Any, Any, Any]]) -> None:
    kinds = {"i": pa.int64(), "f": pa.float64(), "s": pa.string()}
    columns = zip(*rows, strict=True)
    pq.write_table(
        pa.table(list(map(pa.array, columns, kinds.values())), list(kinds)),
        path := tmp_path / "x.parquet",
    )
    assert [tuple(row.values()) for row in read_json(path)] == rows


def test_parquet_in_many_row_groups_keeps_order(tmp_path: Path) -> None:
    data = parquet(pa.table({"n": range(1000)}), row_group_size=70)
    (tmp_path / "a.parquet").write_bytes(data)
    assert [row["n"] for row in read_json(tmp_path / "a.parquet", chunk=64)] == list(range(1000))


def test_what_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"this is not Parquet")
    with pytest.raises(DataError, match=r"a\.parquet is no Parquet file"):
        read(tmp_path / "a.parquet")


# -- paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.JSON", "jsonl"),
        ("a.csv.zst", "csv"),
        ("a.CSV.GZ", "csv"),
        ("a.parquet", "parquet"),
        ("a.log", "lines"),
        ("a", "lines"),
        ("a.gz", "lines"),
    ],
)
def test_the_name_tells_the_format(name: str, expected: str) -> None:
    assert format_of(Path(name)) == expected


def test_the_format_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a,b\n1,2\n")
    assert read(tmp_path / "a.txt", format="csv") == [b'{"a":1,"b":2}']
    assert read(tmp_path / "a.txt") == [b"a,b", b"1,2"]


def test_globs_are_sorted_and_stand_where_they_are_given(tmp_path: Path) -> None:
    for name in ("b.log", "a.log", "c.log", "odd[1].log"):
        (tmp_path / name).write_text(name)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.log").write_text("d.log")
    found = expand([tmp_path / "c.log", f"{tmp_path}/[ab].log", tmp_path / "odd[1].log"])
    assert [path.name for path in found] == ["c.log", "a.log", "b.log", "odd[1].log"]
    assert expand(f"{tmp_path}/**/d.log") == [tmp_path / "sub" / "d.log"]


def test_missing_files_and_directories_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*nothing\.log"):
        read_messages(tmp_path / "nothing.log")
    with pytest.raises(DataError, match=r"no file .*\*\.csv"):
        read_messages([str(tmp_path / "*.csv")])
    with pytest.raises(DataError, match="is a directory"):
        FileSource(tmp_path, "topic")


@pytest.mark.parametrize("name", ["a.log.gz", "a.csv.gz", "a.parquet.gz", "a.log.zst"])
def test_a_file_that_is_cut_off(tmp_path: Path, name: str) -> None:
    data = b"a,b\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(1000))
    if "parquet" in name:
        data = parquet(pa.table({"n": range(1000)}))
    whole = zstd(data) if name.endswith("zst") else gzip.compress(data)
    (tmp_path / name).write_bytes(whole[:-12])
    with pytest.raises(DataError, match=rf"{name}.*[Tt]runcated"):
        read(tmp_path / name)


def test_what_is_not_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.log.gz").write_bytes(b"plain text")
    with pytest.raises(DataError, match=r"cannot read .*a\.log\.gz"):
        read(tmp_path / "a.log.gz")


def test_messages_before_damage_are_yielded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", 4096)
    lines = b"".join(b"line %d\n" % (n * 7919 % 100_003) for n in range(50_000))
    (tmp_path / "a.log.gz").write_bytes(gzip.compress(lines)[:-100])
    chunks: list[list[bytes]] = []
    with pytest.raises(DataError, match=r"cannot read .*a\.log\.gz"):
        chunks.extend(read_messages(tmp_path / "a.log.gz", chunk=100))
    seen = [message for chunk in chunks for message in chunk]
    assert len(seen) > 10_000
    assert seen == lines.splitlines()[: len(seen)]


# -- sink -------------------------------------------------------------------------------------


def test_the_sink_appends_and_makes_directories(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "out.jsonl"
    for n in range(2):
        sink = FileSink(path)
        sink.write([Output("a", b"k", b'{"n": %d}' % n), Output("b", None, b"{}")])
        sink.close()
    assert path.read_bytes() == b'{"n": 0}\n{}\n{"n": 1}\n{}\n'


def test_the_sink_keeps_only_the_topics_wanted(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out", ["b"])
    sink.write([Output("a", None, b"a\nb"), Output("b", None, b"1"), Output("c", None, b"2")])
    sink.close()
    assert (tmp_path / "out").read_bytes() == b"1\n"


def test_the_sink_begins_a_line_after_half_a_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b'{"whole":1}\n{"hal')
    sink = FileSink(tmp_path / "out")
    sink.write([Output("a", None, b"{}")])
    sink.close()
    assert (tmp_path / "out").read_bytes() == b'{"whole":1}\n{"hal\n{}\n'


def test_the_sink_refuses_line_breaks_and_writes_nothing_then(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out")
    with pytest.raises(DataError, match="topic a has a line break"):
        sink.write([Output("a", None, b"fine"), Output("a", None, b"x\ny")])
    sink.close()
    assert (tmp_path / "out").read_bytes() == b""


def test_a_sink_that_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot write"):
        FileSink(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write"):
        FileSink(tmp_path / "file" / "below.jsonl")
    sink = FileSink(tmp_path / "out")
    sink.close()
    with pytest.raises(SetupError, match="closed"):
        sink.write([])
