"""What a worker keeps for training reaches the storage beside its work, and errors reach it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from agents.archiver import ROWS, SECONDS, Archiver
from agents.archiving import record_archive
from agents.judge import Result
from connectors.base import Partition
from connectors.storage import Storage
from tests.kafka_support import eventually
from tests.pipelines import config, fetch, fitted, payments


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(first: int = 0, records: int = 20) -> Result:
    return fitted(config()).process([fetch(list(payments(records)), first=first)])


def writer() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def rows(folder: Path) -> list[int]:
    """Offsets of the archived records."""
    offsets: list[int] = record_archive(Storage(folder), "payments").read()["offset"].to_pylist()
    return offsets


def test_flush_puts_everything_on_the_storage(tmp_path: Path) -> None:
    archiver = Archiver(Storage(tmp_path), ["payments"], writer(), Clock())
    archiver.keep(kept())
    archiver.keep(kept(first=20))
    assert rows(tmp_path) == []
    archiver.flush()
    assert rows(tmp_path) == list(range(40))


def test_rows_are_written_when_they_have_waited_or_are_many(tmp_path: Path) -> None:
    clock, old, many = Clock(), tmp_path / "old", tmp_path / "many"
    archiver = Archiver(Storage(old), ["payments"], writer(), clock)
    archiver.keep(kept())
    clock.now = SECONDS + 1
    archiver.tick()
    archiver.flush()  # waits for the write under way, and has nothing to add
    assert len(list(old.rglob("*.parquet"))) == 1
    archiver = Archiver(Storage(many), ["payments"], writer(), clock)
    result = kept()
    [(stream, partition, table)] = result.archive
    parts = ROWS // len(table)
    for _ in range(parts):
        archiver.keep(Result(archive=[(stream, partition, table)]))
    archiver.keep(kept(first=20))
    archiver.flush()
    assert len(list(many.rglob("*.parquet"))) == 2
    assert rows(many) == list(range(40))


def test_a_storage_that_is_away_is_waited_for(tmp_path: Path) -> None:
    archiver = Archiver(Storage(tmp_path), ["payments"], writer(), Clock())
    obstacle = tmp_path / "archive"
    obstacle.write_text("a file where a folder belongs")
    archiver.keep(kept())
    with structlog.testing.capture_logs() as logs:
        flushing = threading.Thread(target=archiver.flush)
        flushing.start()
        assert eventually(lambda: [x["event"] for x in logs] == ["waiting for the storage"] * 2)
        assert flushing.is_alive()
        obstacle.unlink()
        flushing.join(30)
    assert rows(tmp_path) == list(range(20))


def test_the_rows_of_one_partition_can_go_first(tmp_path: Path) -> None:
    single = writer()
    archiver = Archiver(Storage(tmp_path), ["payments"], single, Clock())
    archiver.keep(fitted(config()).process([fetch(list(payments(20)), partition=1)]))
    archiver.keep(kept())
    archiver.begin(Partition("payments", 1))
    archiver.begin(Partition("payments", 1))  # has nothing to add
    single.submit(bool).result()  # and so what was begun before is written
    table = record_archive(Storage(tmp_path), "payments").read()
    assert set(table["partition"].to_pylist()) == {1}
    archiver.flush()
    assert rows(tmp_path) == [*range(20), *range(20)]


def test_a_checkpoint_does_not_wait_for_rows_under_way(tmp_path: Path) -> None:
    single, gate = writer(), threading.Event()
    archiver = Archiver(Storage(tmp_path), ["payments"], single, Clock())
    result = kept()
    single.submit(gate.wait, 10)  # a storage that takes its time
    archiver.keep(result)
    archiver.begin(result.archive[0][1])
    archiver.keep(kept(first=20))
    archiver.begin(result.archive[0][1])
    assert rows(tmp_path) == []
    gate.set()
    archiver.flush()
    assert rows(tmp_path) == list(range(40))
