"""Windows hold the records that they should."""

from __future__ import annotations

import numpy as np

from agents.encode import Features
from agents.keys import KeyTable, group
from agents.records import Records
from agents.window import Windows, make_windower
from agents.window.base import Windower
from connectors.base import Partition
from tests.pipelines import config

SECOND = 10**9


def feed(windower: Windower, table: KeyTable, keys: str, seconds: list[int]) -> Windows:
    """Add records of one-letter keys; the number of a record is its position."""
    n = len(keys)
    time = np.array(seconds) * SECOND
    records = Records(
        Partition("t", 0), np.arange(n), time, time, list(keys), np.empty((n, 0)), (), ()
    )
    features = Features(np.arange(n, dtype=np.float32)[:, None], np.empty((n, 0), dtype=np.int32))
    return windower.add(records, features, group(table.assign(list(keys)))).windows


def stream(**window: object) -> Windower:
    return make_windower(config(window=window).streams["payments"], 1, 0)


def test_sliding_windows_hold_the_last_records_of_their_key() -> None:
    windows = feed(stream(size=3, min_size=2), KeyTable(), "abaab", list(range(5)))
    assert list(windows.key) == ["a", "a", "b"]
    assert windows.length.tolist() == [2, 3, 2]
    assert windows.num[:, :, 0].tolist() == [[0, 2, 0], [0, 2, 3], [1, 4, 0]]
    assert windows.first_offset.tolist() == [0, 0, 1]
    assert windows.last_offset.tolist() == [2, 3, 4]


def test_stride_skips_windows() -> None:
    windows = feed(stream(size=3, min_size=1, stride=2), KeyTable(), "aaaaa", list(range(5)))
    assert windows.last_offset.tolist() == [0, 2, 4]


def test_tumbling_windows_aggregate_and_wait_for_the_watermark() -> None:
    windower, table = stream(kind="tumbling", length="10s"), KeyTable()
    windows = feed(windower, table, "aabab", [1, 2, 3, 12, 25])
    assert [(k, s // SECOND) for k, s in zip(windows.key, windows.start, strict=True)] == [
        ("a", 0),
        ("b", 0),
        ("a", 10),
    ]
    log_count, mean, _, least, most = windows.num[0, 0]
    assert (np.expm1(log_count).round(), mean, least, most) == (2, 0.5, 0, 1)
    assert list(windower.finish().key) == ["b"]


def test_a_late_record_is_told() -> None:
    windower, table = stream(kind="tumbling", length="10s"), KeyTable()
    n, time = 3, np.array([5, 25, 6]) * SECOND
    records = Records(
        Partition("t", 0), np.arange(n), time, time, ["a"] * n, np.empty((n, 0)), (), ()
    )
    features = Features(np.zeros((n, 1), np.float32), np.empty((n, 0), np.int32))
    added = windower.add(records, features, group(table.assign(["a"] * n)))
    assert added.late.tolist() == [False, False, True]


def test_hopping_windows_overlap() -> None:
    windower = stream(kind="hopping", length="10s", hop="5s")
    windows = feed(windower, KeyTable(), "aa", [7, 30])
    assert [s // SECOND for s in windows.start.tolist()] == [0, 5]


def test_sessions_end_after_their_gap_and_keep_their_first_records() -> None:
    windower, table = stream(kind="session", gap="5s", size=2), KeyTable()
    windows = feed(windower, table, "aaabac", [1, 2, 3, 4, 20, 60])
    assert list(windows.key) == ["a", "b", "a"]
    assert windows.records.tolist() == [3, 1, 1]
    assert windows.length.tolist() == [2, 1, 1]
    assert windows.num[0, :, 0].tolist() == [0, 1]
    assert list(windower.finish().key) == ["c"]


def test_state_is_no_larger_than_promised() -> None:
    keys, size = 20_000, 16
    windower = stream(size=size)
    table = KeyTable()
    names = [f"k{i}" for i in range(keys)]
    time = np.arange(keys) * SECOND
    records = Records(
        Partition("t", 0), np.arange(keys), time, time, names, np.empty((keys, 0)), (), ()
    )
    features = Features(np.zeros((keys, 1), np.float32), np.empty((keys, 0), np.int32))
    windower.add(records, features, group(table.assign(names)))
    assert windower.nbytes() / keys <= 1.5 * size * (4 * 1 + 16)
