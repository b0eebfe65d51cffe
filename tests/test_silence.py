"""Keys that stop sending: told by the records alone, however they were fetched."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.keys import KeyTable, group
from agents.pipeline import Pipeline
from agents.records import Records
from agents.silence import FORGOTTEN, Silence
from agents.silences import Silences
from agents.snapshot import pack, unpack
from connectors.base import Partition, flatten
from schemas import messages
from schemas.config import Pipeline as Config
from schemas.errors import ConfigError
from schemas.messages import Incident
from tests.alike import assert_alike
from tests.pipelines import START_MS, config, fetch

LIMIT = 10
PLACE = Partition("payments", 0)


def records(keys: list[str], times: list[int]) -> Records:
    count = len(keys)
    at = np.array(times, dtype=np.int64)
    return Records(PLACE, np.arange(count), at, at, keys, np.empty((count, 0)), (), ())


def add(silence: Silence, table: KeyTable, keys: list[str], times: list[int]) -> list[Incident]:
    return silence.add(records(keys, times), group(table.assign(keys)))


class Naive:
    """The same, one record at a time."""

    def __init__(self, per_day: float) -> None:
        self.book = Silences("s", per_day)
        self.clock = -(2**62)
        self.last: dict[str, tuple[int, int]] = {}  # number and clock of the newest record
        self.told: dict[str, int] = {}
        self.count = 0

    def add(self, key: str, time: int) -> list[Incident]:
        now = self.clock = max(self.clock, time)
        gone = {k for k, at in self.told.items() if now - at > FORGOTTEN * LIMIT}
        ended = sorted((self.last[k][0], k) for k in gone | ({key} & self.told.keys()))
        said = [x for _, k in ended for x in self.book.end(k, now)]
        for k in gone:
            del self.last[k]
            del self.told[k]
        self.told.pop(key, None)
        self.last[key] = (self.count, now)
        self.count += 1
        silent = [(n, k, at) for k, (n, at) in self.last.items() if now - at > LIMIT]
        begun = {k: at for _, k, at in sorted(silent) if k not in self.told}
        self.told |= dict.fromkeys(begun, now)
        return said + self.book.begin(begun, now)


steps = st.one_of(st.integers(-3, 6), st.integers(8, 30), st.integers(90, 260))
sequences = st.lists(st.tuples(st.sampled_from("abcdefghij"), steps), min_size=1, max_size=80)


@given(sequences, st.data(), st.sampled_from([2.0, 8.0, 1000.0]))
def test_silences_follow_from_the_records_alone(
    sequence: list[tuple[str, int]], data: st.DataObject, per_day: float
) -> None:
    keys = [key for key, _ in sequence]
    times = list(itertools.accumulate(step for _, step in sequence))
    naive = Naive(per_day)
    expected = [x for pair in zip(keys, times, strict=True) for x in naive.add(*pair)]
    silence, table, said = Silence("s", LIMIT, per_day), KeyTable(), []
    at = 0
    while at < len(keys):
        end = data.draw(st.integers(at + 1, len(keys)))
        said += add(silence, table, keys[at:end], times[at:end])
        at = end
        if data.draw(st.booleans()):
            old, silence = silence, Silence("s", LIMIT, per_day)
            silence.restore(unpack(b"".join(pack(old.state()))))
            assert_alike(silence, old, "silence")
            table = KeyTable()  # slots need not survive
    assert said == expected
    assert set(silence._rows) == set(naive.last)
    assert (silence.silences.opened, silence.silences.suppressed) == (
        naive.book.opened,
        naive.book.suppressed,
    )


def test_a_silence_is_told_once_and_ends_with_the_next_record() -> None:
    silence, table = Silence("s", LIMIT, 100.0), KeyTable()
    assert add(silence, table, ["a", "b"], [0, 1]) == []
    assert add(silence, table, ["b"] * 5, [4, 8, 9, 10, 10]) == []
    [opened] = add(silence, table, ["b", "b"], [11, 12])
    assert (opened.state, opened.kind, opened.keys) == ("open", "key_silence", ["a"])
    assert (opened.first_event, opened.opened_at) == (0, 11)
    assert add(silence, table, ["b"] * 3, [13, 14, 30]) == []
    [closed] = add(silence, table, ["a"], [31])
    assert (closed.incident_id, closed.state, closed.last_event) == (
        opened.incident_id,
        "closed",
        31,
    )


def test_a_partition_to_which_nobody_sends_blames_nobody_but_the_others() -> None:
    silence, table = Silence("s", LIMIT, 100.0), KeyTable()
    add(silence, table, ["a"], [0])
    assert add(silence, table, ["a"], [10_000]) == []  # its own record does not tell of it


def test_half_the_keys_at_once_make_one_incident() -> None:
    silence, table = Silence("s", 1000, 8.0), KeyTable()
    keys = [f"key-{i}" for i in range(200)]
    add(silence, table, keys, list(range(200)))
    said = add(silence, table, keys[:100] * 20, list(range(200, 2200)))
    opened = [x for x in said if x.state == "open"]
    assert len(opened) <= 6
    assert silence.silences.suppressed == 0
    closed = add(silence, table, keys[100:], list(range(2300, 2400)))
    assert {x.incident_id for x in closed if x.state == "closed"} == {x.incident_id for x in opened}
    most = max(closed, key=lambda x: x.key_count)
    assert most.key_count == 200 - 100 - len(opened) + 1
    assert most.severity == "medium"


def test_what_falls_silent_with_one_record_is_one_incident() -> None:
    silence, table = Silence("s", LIMIT, 8.0), KeyTable()
    keys = [f"key-{i}" for i in range(50)]
    add(silence, table, [*keys, "x"], [0] * 51)
    [opened] = add(silence, table, ["x"], [100])
    assert (opened.key_count, opened.events) == (50, 50)


def test_a_key_that_stays_away_is_forgotten() -> None:
    silence, table = Silence("s", LIMIT, 100.0), KeyTable()
    add(silence, table, ["a", "b"], [0, 0])
    times = list(range(1, 300))
    said = add(silence, table, ["b"] * len(times), times)
    assert [x.state for x in said] == ["open", "closed"]
    assert said[1].last_event == 11 + FORGOTTEN * LIMIT + 1
    assert list(silence._rows) == ["b"]
    assert add(silence, table, ["a"], [301]) == []


def payments_of(pairs: list[tuple[str, int]]) -> list[bytes | None]:
    return [
        msgspec.json.encode({"card": card, "ts": START_MS + 1000 * at, "amount": 1.0})
        for card, at in pairs
    ]


def watching(**alerts: Any) -> Config:
    return config(alerts={"silence": {"key": "1m"}, **alerts})


def test_the_pipeline_publishes_and_counts_silences() -> None:
    now = 0
    pipeline = Pipeline(watching(max_age="1h"), lambda: now)
    values = payments_of([("a", 0), *(("b", at) for at in range(0, 120, 10))])
    now = (START_MS + 120_000) * 10**6 + 3 * 3600 * 10**9
    outputs = flatten(pipeline.process([fetch(values)]).outputs)
    [opened] = [messages.decode(x.value, Incident) for x in outputs if "alerts" in x.topic]
    assert (opened.route, opened.keys, opened.stale) == ("silence", ["a"], True)
    assert "silent since 2023-11-14 22:13:20 UTC" in opened.summary
    [account] = pipeline.accounts()
    assert account.incidents == 1
    now = (START_MS + 130_000) * 10**6  # caught up, and still silent: a page is due
    outputs = flatten(pipeline.process([fetch(payments_of([("b", 125)]), 0, 13)]).outputs)
    [again] = [messages.decode(x.value, Incident) for x in outputs if "alerts" in x.topic]
    assert again == msgspec.structs.replace(opened, stale=False)
    outputs = flatten(pipeline.finish().outputs)
    assert [messages.decode(x.value, Incident).state for x in outputs] == ["closed"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"alerts": {"silence": "0s"}}, "silence.stream: give a time between"),
        ({"alerts": {"silence": {"key": "40d"}}}, "silence.key: give a time between"),
        ({"alerts": {"silence": {"keys": "4h"}}}, "did you mean 'key'"),
        ({"alerts": {"silence": {"key": "4h"}}, "key": "none"}, "has no keys"),
        (
            {
                "alerts": {"silence": "4h"},
                "detectors": [{"detector": "pca", "name": "silence"}],
            },
            "names incidents of silence",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config(**changes)


def test_a_duration_is_short_for_the_stream() -> None:
    silence = config(alerts={"silence": "15m"}).streams["payments"].alerts.silence
    assert (silence.stream, silence.key) == (15 * 60 * 10**9, None)
