"""Records come back from the archive as they went in, and suspect windows stay in quarantine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from agents.archiving import (
    Quarantine,
    archive_table,
    archived_records,
    quarantine_archive,
    quarantine_table,
    record_archive,
)
from agents.decode import Decoder
from agents.fitting import build_history
from agents.records import Records
from agents.window.base import no_windows
from connectors.base import Fetch, Partition
from connectors.storage import Storage
from schemas.config import Stream
from tests.pipelines import config, fetch, fitted, payments


def decoded(stream: Stream, fetches: list[Fetch]) -> list[Records]:
    decoder = Decoder("payments", stream, config().limits)
    return [decoder(part).records for part in fetches]


def test_records_of_one_message_all_come_back(tmp_path: Path) -> None:
    stream = config(source={"topic": "payments", "format": "arrow"}).streams["payments"]
    rows = [msgspec.json.decode(value) for value in payments(50)]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    [records] = decoded(stream, [fetch([sink.getvalue().to_pybytes()])])
    archive = record_archive(Storage(tmp_path), "payments")
    archive.append(records.partition, archive_table(stream, records))
    archive.append(records.partition, archive_table(stream, records))  # again, after a crash
    [back] = archived_records(stream, archive.read())
    assert back.key == records.key
    np.testing.assert_array_equal(back.numbers, records.numbers)
    np.testing.assert_array_equal(back.time, records.time)


@pytest.mark.parametrize(
    "window",
    [
        {"kind": "sliding", "size": 4},
        {"kind": "tumbling", "length": "30s"},
        {"kind": "session", "gap": "5s"},
    ],
)
def test_windows_judged_anomalous_are_known_again(tmp_path: Path, window: dict[str, str]) -> None:
    made = config(window=window, archive=True)
    pipeline = fitted(made)
    values: list[bytes | None] = list(payments(800, seed=6, cards=3))
    for at in range(300, 320):
        odd = msgspec.json.decode(values[at] or b"")
        values[at] = msgspec.json.encode({**odd, "amount": 900.0})
    results = [
        pipeline.process([fetch(values[:411])]),
        pipeline.process([fetch(values[411:], 0, 411)]),
        pipeline.finish(),
    ]
    storage = Storage(tmp_path)
    records, quarantine = record_archive(storage, "s"), quarantine_archive(storage, "s")
    for result in results:
        for _, partition, table in result.archive:
            records.append(partition, table)
        for _, partition, table in result.quarantine:
            quarantine.append(partition, table)
    stream = made.streams["payments"]
    history = build_history(
        stream,
        archived_records(stream, records.read()),
        quarantine=Quarantine(quarantine.read()),
    )
    largest = np.nanmax(history.windows.num.reshape(len(history.suspect), -1), axis=1)
    totals = pipeline.totals()["payments"]
    assert history.suspect.sum() == totals.anomalies > 0
    assert history.suspect[largest >= 900].any()


def test_what_many_keys_did_since_the_change_is_released() -> None:
    where = Partition("t", 0)
    windows = replace(
        no_windows(1, 1, 0),
        length=np.ones(4, np.int64),
        key=["a", "b", "c", "d"],
        end=np.array([10, 20, 30, 40]),
        last_offset=np.array([1, 2, 3, 4]),
    )
    table = quarantine_table(where, windows, np.array([True, False, True, False]))
    held = Quarantine(table, changed_at=20).holds(where, windows)
    assert held.tolist() == [True, True, False, True]
    assert Quarantine(table).holds(where, windows).all()
    assert not Quarantine(table).holds(Partition("t", 1), windows).any()
