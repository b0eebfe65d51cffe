"""The archive: what is appended is read once, newest first chosen, within its bound."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.archive import Archive
from connectors.base import Partition
from connectors.storage import Storage
from schemas.errors import DataError

P0, P1, OTHER = Partition("t", 0), Partition("t", 1), Partition("a", 3)


def rows(partition: Partition, first: int, count: int, **columns: Any) -> pa.Table:
    """Records whose time is ten times their offset."""
    offsets = np.arange(first, first + count)
    return pa.table(
        {
            "topic": [partition.topic] * count,
            "partition": pa.array([partition.number] * count, pa.int64()),
            "offset": offsets,
            "time": offsets * 10,
            **columns,
        }
    )


def positions(table: pa.Table) -> list[tuple[str, int, int]]:
    columns = (table[name].to_pylist() for name in ("topic", "partition", "offset"))
    return list(zip(*columns, strict=True))


def span(partition: Partition, first: int, end: int) -> list[tuple[str, int, int]]:
    return [(partition.topic, partition.number, offset) for offset in range(first, end)]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


@pytest.fixture
def archive(storage: Storage) -> Archive:
    return Archive(storage, "payments")


def test_files_are_named_by_their_offsets(archive: Archive, storage: Storage) -> None:
    archive.append(P1, rows(P1, 7, 3))
    name = "archive/payments/t/1/00000000000000000007-00000000000000000009.parquet"
    assert storage.list() == [name]
    archive.append(P1, rows(P1, 7, 3))
    assert storage.list() == [name]


def test_an_empty_table_is_no_file(archive: Archive, storage: Storage) -> None:
    archive.append(P0, rows(P0, 0, 0))
    assert storage.list() == []


def test_an_empty_archive_has_the_mandatory_columns(archive: Archive) -> None:
    for table in (archive.read(), archive.read(limit_records=5), archive.read(since_ns=3)):
        assert table.num_rows == 0
        assert table.column_names == ["topic", "partition", "offset", "time"]


def test_records_come_in_the_order_of_the_log(archive: Archive) -> None:
    archive.append(P1, rows(P1, 0, 3))
    archive.append(P0, rows(P0, 5, 2))
    archive.append(OTHER, rows(OTHER, 1, 2))
    archive.append(P0, rows(P0, 0, 5, x=[1.5] * 5))
    table = archive.read()
    assert positions(table) == span(OTHER, 1, 3) + span(P0, 0, 7) + span(P1, 0, 3)
    assert table["x"].to_pylist() == [None] * 2 + [1.5] * 5 + [None] * 5


def test_overlapping_files_are_cleared_of_doubles(archive: Archive) -> None:
    for first, count in ((0, 10), (5, 10), (3, 20), (20, 5)):
        archive.append(P0, rows(P0, first, count))
    assert positions(archive.read()) == span(P0, 0, 25)
    assert positions(archive.read(limit_records=7)) == span(P0, 18, 25)


def test_times_choose_records(archive: Archive) -> None:
    for first in range(0, 100, 10):
        archive.append(P0, rows(P0, first, 10))
    assert positions(archive.read(since_ns=150)) == span(P0, 15, 100)
    assert positions(archive.read(until_ns=150)) == span(P0, 0, 15)
    assert positions(archive.read(since_ns=145, until_ns=155)) == span(P0, 15, 16)
    assert positions(archive.read(since_ns=10_000)) == []


def test_a_limit_takes_the_newest_of_all_partitions(archive: Archive) -> None:
    for first in range(0, 100, 20):
        for partition in (P0, P1):
            archive.append(partition, rows(partition, first, 20))
    table = archive.read(limit_records=30)
    assert positions(table) == span(P0, 85, 100) + span(P1, 85, 100)
    assert positions(archive.read(until_ns=500, limit_records=4)) == [
        *span(P0, 48, 50),
        *span(P1, 48, 50),
    ]
    assert archive.read(limit_records=0).num_rows == 0
    assert archive.read(limit_records=10_000).num_rows == 200


@given(
    st.lists(
        st.tuples(st.sampled_from([P0, P1, OTHER]), st.integers(0, 40), st.integers(1, 15)),
        max_size=8,
    ),
    st.none() | st.integers(0, 60),
    st.none() | st.integers(0, 500),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_reading_equals_a_plain_model(
    tmp_path_factory: pytest.TempPathFactory,
    parts: list[tuple[Partition, int, int]],
    limit: int | None,
    since: int | None,
) -> None:
    archive = Archive(Storage(tmp_path_factory.mktemp("archive")), "s")
    known = set()
    for partition, first, count in parts:
        archive.append(partition, rows(partition, first, count))
        known |= set(span(partition, first, first + count))
    expected = sorted(row for row in known if since is None or row[2] * 10 >= since)
    found = positions(archive.read(since_ns=since, limit_records=limit))
    if limit is None:
        assert found == expected
    else:
        assert found == sorted(set(found))
        assert set(found) <= set(expected)
        newest = sorted((row[2] for row in expected), reverse=True)[:limit]
        assert sorted((row[2] for row in found), reverse=True) == newest


def test_the_oldest_files_go_when_the_bound_is_passed(storage: Storage) -> None:
    archive = Archive(storage, "s", max_bytes=20_000)
    for first in range(0, 3000, 100):
        noise = np.random.default_rng(first).random(100)
        archive.append(P0, rows(P0, first, 100, noise=noise))
    kept = positions(archive.read())
    sizes = [file.size_bytes for file in storage.files()]
    assert sum(sizes) <= 20_000 * 1.05 + max(sizes)
    assert len(sizes) > 3
    assert kept == span(P0, 3000 - len(kept), 3000)


def test_the_newest_file_stays_under_any_bound(storage: Storage) -> None:
    archive = Archive(storage, "s", max_bytes=1)
    archive.append(P0, rows(P0, 0, 5))
    archive.append(P0, rows(P0, 5, 5))
    assert positions(archive.read()) == span(P0, 5, 10)


def test_other_streams_are_left_alone(storage: Storage) -> None:
    Archive(storage, "s2").append(P0, rows(P0, 0, 5))
    storage.write("archive/s/readme.txt", b"hello")
    archive = Archive(storage, "s", max_bytes=1 << 20)
    archive.append(P0, rows(P0, 0, 2))
    assert positions(archive.read()) == span(P0, 0, 2)


def test_a_file_pruned_while_reading_is_passed_over(
    archive: Archive, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.append(P0, rows(P0, 0, 5))
    archive.append(P0, rows(P0, 5, 5))
    gone, kept = storage.list()
    read, opened = storage.read_table, storage.open

    def prune_first(name: str) -> pa.Table:
        storage.delete(gone)
        return read(name)

    monkeypatch.setattr(storage, "read_table", prune_first)
    assert positions(archive.read()) == span(P0, 5, 10)
    monkeypatch.undo()

    def prune_at_open(name: str) -> Any:
        storage.delete(kept)
        return opened(name)

    monkeypatch.setattr(storage, "open", prune_at_open)
    assert archive.read().num_rows == 0


def test_a_damaged_file_is_an_error(archive: Archive, storage: Storage) -> None:
    archive.append(P0, rows(P0, 0, 5))
    storage.write(storage.list()[0], b"PAR1 and junk")
    with pytest.raises(DataError, match="no whole Parquet file"):
        archive.read()


def test_columns_that_do_not_fit_together(archive: Archive) -> None:
    archive.append(P0, rows(P0, 0, 1, x=["text"]))
    archive.append(P0, rows(P0, 1, 1, x=[[1, 2]]))
    with pytest.raises(DataError, match="do not fit together"):
        archive.read()


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (rows(P0, 0, 2).drop_columns(["time"]), "column 'time': no such column"),
        (rows(P0, 0, 2).set_column(3, "time", [[1.0, 2.0]]), "column 'time': double"),
        (rows(P0, 0, 2).set_column(3, "time", [[1, None]]), "column 'time': int64 with 1 nulls"),
        (rows(P1, 0, 2), r"column 'partition': \[1\]"),
        (rows(OTHER, 0, 2), r"column 'topic': \['a'\]"),
    ],
)
def test_what_cannot_be_archived(archive: Archive, table: pa.Table, match: str) -> None:
    with pytest.raises(DataError, match=match):
        archive.append(P0, table)
