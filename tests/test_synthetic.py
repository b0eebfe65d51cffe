"""Generated streams: repeatable, in order, labelled truly, and with anomalies that stand out."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.synthetic import GENERATORS, PATTERN, Episode, Generated, Generator
from connectors.synthetic.base import START_NS
from schemas.errors import DataError

NAMES = sorted(GENERATORS)
RECORDS, ENTITIES, EPISODES = 12_000, 30, 18
KEY_FIELD = {"transactions": "card_id", "flows": "host"}


def make(name: str, **options: Any) -> Generator:
    sizes = {"seed": 5, "records": RECORDS, "entities": ENTITIES, "anomaly_episodes": EPISODES}
    return GENERATORS[name](**{**sizes, **options})


def whole(generator: Generator, chunk: int = 8192) -> Generated:
    first, *rest = generator.generate(chunk)
    for part in rest:
        first = first + part
    return first


@cache
def stream(name: str) -> tuple[Generator, Generated]:
    generator = make(name)
    return generator, whole(generator)


@cache
def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(value) for value in stream(name)[1].values]


def assert_equal(one: Generated, other: Generated) -> None:
    assert one.values == other.values
    assert one.keys == other.keys
    for column in ("times", "labels", "episode"):
        assert np.array_equal(getattr(one, column), getattr(other, column)), column


def normal(name: str, key: str, field: str) -> list[Any]:
    """The values of a field in the normal records of a key."""
    data = stream(name)[1]
    pairs = zip(rows(name), data.keys, data.labels.tolist(), strict=True)
    return [row[field] for row, k, label in pairs if k == key.encode() and not label]


def episodes(name: str, called: str) -> Iterator[tuple[Episode, list[dict[str, Any]]]]:
    """The episodes of a name with their records."""
    generator, data = stream(name)
    for episode in generator.episodes:
        if episode.name == called:
            at = np.flatnonzero(data.episode == episode.index)
            yield episode, [rows(name)[i] for i in at]


# -- every stream -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_streams(name: str) -> None:
    generator, data = stream(name)
    assert_equal(whole(generator), data)
    again = make(name)
    assert_equal(whole(again), data)
    assert again.episodes == generator.episodes
    assert whole(make(name, seed=6)).values != data.values


@pytest.mark.parametrize("name", NAMES)
@given(chunk=st.integers(1, 700))
@settings(max_examples=5, deadline=None)
def test_chunks_carry_no_meaning(name: str, chunk: int) -> None:
    generator = make(name, records=1500, anomaly_episodes=3)
    chunks = list(generator.generate(chunk))
    assert {len(part) for part in chunks[:-1]} <= {chunk}
    assert 0 < len(chunks[-1]) <= chunk
    assert_equal(whole(generator, chunk), whole(generator))


@pytest.mark.parametrize("name", NAMES)
def test_there_are_as_many_records_as_asked_for_in_order(name: str) -> None:
    _, data = stream(name)
    assert len(data) == len(data.keys) == RECORDS
    assert (np.diff(data.times) >= 0).all()
    assert (data.times % 1_000_000 == 0).all()
    assert data.times[0] >= START_NS
    columns = (data.times, data.labels, data.episode)
    assert [column.dtype.name for column in columns] == ["int64", "int8", "int32"]


@pytest.mark.parametrize("name", NAMES)
def test_labels_and_episodes_tell_the_same(name: str) -> None:
    generator, data = stream(name)
    assert np.array_equal(data.labels == 1, data.episode >= 0)
    assert [episode.index for episode in generator.episodes] == list(range(EPISODES))
    for episode in generator.episodes:
        at = np.flatnonzero(data.episode == episode.index)
        assert len(at) == episode.records > 0
        assert {data.keys[i] for i in at} == {episode.key.encode()}
        assert (data.times[at[0]], data.times[at[-1]]) == (episode.start_ns, episode.end_ns)


@pytest.mark.parametrize("name", NAMES)
def test_kinds_take_turns(name: str) -> None:
    kinds = Counter(episode.kind for episode in stream(name)[0].episodes)
    assert kinds == {"point": 6, "contextual": 6, "group": 6}


@pytest.mark.parametrize("name", NAMES)
def test_the_beginning_has_no_episodes(name: str) -> None:
    data = whole(make(name, anomalies_from=0.5))
    assert not data.labels[: int(0.45 * RECORDS)].any()
    assert data.labels[int(0.45 * RECORDS) :].any()


@pytest.mark.parametrize("name", NAMES)
def test_activity_has_a_daily_rhythm(name: str) -> None:
    data = whole(make(name, entities=3 if name == "logs" else ENTITIES))
    full_days = (data.times[-1] - START_NS) // 86_400_000_000_000
    assert full_days >= 1
    inside = data.times < START_NS + full_days * 86_400_000_000_000
    hours = np.bincount(data.times[inside] // 3_600_000_000_000 % 24, minlength=24)
    assert hours.max() > 2 * hours.min()


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_may_begin_at_any_time(name: str) -> None:
    start = START_NS + 12_345_678_901_000_000
    data = whole(make(name, start_ns=start, anomaly_episodes=0))
    assert start <= data.times[0] < start + 3_600_000_000_000
    assert len(data) == RECORDS


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_may_be_empty(name: str) -> None:
    assert list(make(name, records=0, anomaly_episodes=0).generate()) == []
    assert len(whole(make(name, records=1, anomaly_episodes=0))) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"records": -1}, "records is -1; give at least 0"),
        ({"entities": 0}, "entities is 0"),
        ({"drift_at": 1.5}, "drift_at is 1.5; give at least 0.0 and at most 1.0"),
        ({"anomalies_from": 0.99}, "anomalies_from is 0.99"),
        ({"records": 50}, "18 episodes do not fit into 50 records"),
        ({"records": 0}, "18 episodes do not fit into 0 records"),
    ],
)
def test_sizes_that_cannot_be(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        make(name, **options)


# -- drift ------------------------------------------------------------------------------------


def split_at_drift(name: str) -> tuple[Generator, list[bytes], list[bytes]]:
    generator = make(name, drift_at=0.5, anomaly_episodes=0)
    data = whole(generator)
    assert generator.drift_ns is not None
    cut = int(np.searchsorted(data.times, generator.drift_ns))
    assert 0.4 * RECORDS < cut < 0.6 * RECORDS
    return generator, data.values[:cut], data.values[cut:]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changes_before_the_drift(name: str) -> None:
    generator, before, after = split_at_drift(name)
    steady = make(name, anomaly_episodes=0)
    assert steady.drift_ns is None
    assert generator.drift_ns is not None
    values = whole(steady).values
    assert values[: len(before)] == before
    assert values[len(before) :] != after


def test_transactions_drift() -> None:
    _, before, after = split_at_drift("transactions")
    old, new = ([json.loads(value) for value in part] for part in (before, after))
    ratio = np.median([r["amount"] for r in new]) / np.median([r["amount"] for r in old])
    assert 1.8 < ratio < 2.2
    online = [np.mean([r["channel"] == "online" for r in part]) for part in (old, new)]
    assert online[1] > online[0] + 0.1
    late = np.median([r["amount"] for r in new[-1000:]])
    assert late == pytest.approx(np.median([r["amount"] for r in new]), rel=0.15)


def test_flows_drift() -> None:
    _, before, after = split_at_drift("flows")
    old, new = ([json.loads(value) for value in part] for part in (before, after))
    for field in ("bytes_in", "bytes_out", "packets"):
        # whole days would be needed for an exact ratio
        assert np.median([r[field] for r in new]) > 1.5 * np.median([r[field] for r in old])
    https = [[r["proto"] for r in part if r["port"] == 443] for part in (old, new)]
    assert "udp" not in https[0]
    assert 0.25 < np.mean([proto == "udp" for proto in https[1]]) < 0.4


def test_logs_drift() -> None:
    _, before, after = split_at_drift("logs")
    old, new = (Counter(component(value) for value in part) for part in (before, after))
    assert old["stream"] == 0
    assert new["stream"] > 0.15 * new.total()
    assert old["importer"] / old.total() > 2 * new["importer"] / new.total()


def component(line: bytes) -> str:
    match = re.match(PATTERN, line.decode())
    assert match is not None
    return match["component"]


# -- transactions -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(KEY_FIELD))
def test_json_fields_agree_with_the_columns(name: str) -> None:
    _, data = stream(name)
    found = rows(name)
    assert [row[KEY_FIELD[name]].encode() for row in found] == data.keys
    assert [row["ts"] * 1_000_000 for row in found] == data.times.tolist()
    ids = {row.get("tx_id") or row["flow_id"] for row in found}
    assert len(ids) == RECORDS
    other = json.loads(next(make(name, seed=6).generate(1)).values[0])
    assert (other.get("tx_id") or other["flow_id"]) not in ids


def test_transactions_have_habits() -> None:
    found = rows("transactions")
    assert set(found[0]) == {
        "tx_id", "card_id", "ts", "amount", "merchant", "country", "channel", "distance_km",
    }  # fmt: skip
    assert 100 < len({row["merchant"] for row in found}) <= 200
    for row in found:
        assert row["amount"] >= 0.5
        assert (row["distance_km"] is None) == (row["channel"] == "online")
    for card in {row["card_id"] for row in found}:
        merchants = Counter(normal("transactions", card, "merchant"))
        assert sum(n for _, n in merchants.most_common(10)) > 0.95 * merchants.total()
        countries = Counter(normal("transactions", card, "country"))
        assert countries.most_common(1)[0][1] > 0.98 * countries.total()


def test_a_large_amount_is_far_beyond_the_card() -> None:
    for episode, (record,) in episodes("transactions", "large_amount"):
        usual = normal("transactions", episode.key, "amount")
        assert record["amount"] > 15 * np.median(usual)
        assert record["amount"] > 4 * max(usual)
        assert record["country"] in normal("transactions", episode.key, "country")


def test_an_odd_hour_and_place_is_odd_in_context_alone() -> None:
    everywhere = Counter(row["country"] for row in rows("transactions"))
    for episode, records in episodes("transactions", "odd_hour_and_place"):
        amounts = normal("transactions", episode.key, "amount")
        hours = np.array(normal("transactions", episode.key, "ts")) / 3_600_000 % 24
        for record in records:
            assert min(amounts) * 0.8 < record["amount"] < max(amounts) * 1.25
            assert record["country"] not in normal("transactions", episode.key, "country")
            assert everywhere[record["country"]] > 100
            away = np.abs((hours - record["ts"] / 3_600_000 + 12) % 24 - 12)
            assert np.mean(away < 1) < 0.05


def test_card_testing_is_a_burst_of_small_amounts() -> None:
    for episode, records in episodes("transactions", "card_testing"):
        assert 15 <= len(records) <= 30
        assert episode.end_ns - episode.start_ns < 6 * 60_000_000_000
        assert max(record["amount"] for record in records) <= 3


# -- flows ------------------------------------------------------------------------------------


def test_flows_have_roles() -> None:
    found = rows("flows")
    assert set(found[0]) == {
        "flow_id", "host", "ts", "bytes_in", "bytes_out", "packets", "duration_ms", "port", "proto",
    }  # fmt: skip
    for host in {row["host"] for row in found}:
        ports = Counter(normal("flows", host, "port"))
        assert len(ports) <= 4
        assert ports.most_common(1)[0][1] > 0.7 * ports.total()
    assert {row["proto"] for row in found if row["port"] == 53 and row["packets"] > 2} <= {"udp"}


def test_an_exfiltration_sends_out_far_more_than_ever() -> None:
    for episode, (record,) in episodes("flows", "exfiltration"):
        assert record["bytes_out"] > 50 * max(normal("flows", episode.key, "bytes_out"))
        assert record["port"] in normal("flows", episode.key, "port")


def test_odd_volumes_are_those_of_the_busy_hour() -> None:
    for episode, records in episodes("flows", "odd_hour_volume"):
        usual = np.array(normal("flows", episode.key, "bytes_in"))
        hours = np.array(normal("flows", episode.key, "ts")) / 3_600_000 % 24
        for record in records:
            assert record["bytes_in"] < 2 * max(usual)
            near = np.abs((hours - record["ts"] / 3_600_000 + 12) % 24 - 12) < 1.5
            assert record["bytes_in"] > 2 * np.median(usual[near])


def test_odd_ports_belong_to_other_roles() -> None:
    ports = Counter(row["port"] for row in rows("flows"))
    for episode, records in episodes("flows", "odd_port"):
        (port,) = {record["port"] for record in records}
        assert port not in normal("flows", episode.key, "port")
        assert ports[port] > len(records)


def test_a_port_scan_is_many_small_flows_within_a_minute() -> None:
    for episode, records in episodes("flows", "port_scan"):
        assert 100 <= len(records) <= 200
        assert len({record["port"] for record in records}) > 0.9 * len(records)
        assert episode.end_ns - episode.start_ns < 70_000_000_000
        assert max(record["bytes_out"] for record in records) <= 120


# -- logs -------------------------------------------------------------------------------------


@cache
def sessions() -> dict[str, list[tuple[str, str, int]]]:
    """Level, message without parameters, and episode of the lines of each session."""
    _, data = stream("logs")
    found = defaultdict(list)
    for value, key, episode in zip(data.values, data.keys, data.episode.tolist(), strict=True):
        match = re.match(PATTERN, value.decode())
        assert match is not None, value
        assert match["session"].encode() == key
        template = re.sub(r"\b[0-9a-f]{8}\b|\d+", "#", match["message"])
        found[match["session"]].append((match["level"], template, episode))
    return found


def complete() -> dict[str, list[str]]:
    """Templates of the sessions without an episode that have ended."""
    return {
        session: [template for _, template, _ in lines]
        for session, lines in sessions().items()
        if lines[-1][1].startswith("Job finished") and all(e < 0 for *_, e in lines)
    }


def test_the_pattern_reads_every_line() -> None:
    _, data = stream("logs")
    for value, time in zip(data.values, data.times.tolist(), strict=True):
        match = re.match(PATTERN, value.decode())
        assert match is not None, value
        assert {"time", "level", "component", "session", "message"} <= set(match.groupdict())
        assert np.datetime64(match["time"].removesuffix("Z"), "ns").astype(np.int64) == time


def test_sessions_follow_a_grammar_and_interleave() -> None:
    normal_sessions = complete()
    assert len(normal_sessions) > 0.9 * len(sessions())
    assert {len(lines) for lines in normal_sessions.values()} <= set(range(8, 28))
    templates = {template for lines in normal_sessions.values() for template in lines}
    assert 25 <= len(templates) <= 40
    assert len({tuple(lines) for lines in normal_sessions.values()}) < 60
    _, data = stream("logs")
    changes = np.mean([a != b for a, b in pairwise(data.keys)])
    assert changes > 0.5


def odd_sessions(called: str) -> Iterator[tuple[list[tuple[str, str, int]], Episode]]:
    for episode in stream("logs")[0].episodes:
        if episode.name == called:
            yield sessions()[episode.key], episode


def test_an_unknown_error_is_in_no_other_session() -> None:
    known = {template for lines in complete().values() for template in lines}
    for lines, episode in odd_sessions("unknown_error"):
        (marked,) = [line for line in lines if line[2] == episode.index]
        assert marked[0] in ("ERROR", "FATAL")
        assert marked[1] not in known


@pytest.mark.parametrize("called", ["missing_step", "wrong_order"])
def test_contextual_sessions_have_known_lines_in_an_unknown_sequence(called: str) -> None:
    normal_sessions = complete().values()
    known = {template for lines in normal_sessions for template in lines}
    pairs = {pair for lines in normal_sessions for pair in pairwise(lines)}
    for lines, _ in odd_sessions(called):
        templates = [template for _, template, _ in lines]
        assert set(templates) <= known
        for at, (_, _, episode) in enumerate(lines):
            if episode >= 0 and (called == "missing_step" or lines[at - 1][2] < 0):
                assert (templates[at - 1], templates[at]) not in pairs


def test_a_retry_storm_repeats_a_known_line() -> None:
    known = {template for lines in complete().values() for template in lines}
    for lines, episode in odd_sessions("retry_storm"):
        assert 20 <= episode.records <= 32
        assert len(lines) <= 64
        (repeated,) = {template for _, template, index in lines if index == episode.index}
        assert repeated in known
