"""Decoding: a bad record is a dead letter with its reason, and takes nobody with it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.decode import Decoder
from tests.pipelines import START_MS, config, fetch, payments

GOOD = b'{"card": "a", "ts": %d, "amount": 1.5, "country": "AT"}' % START_MS


def decoder(**changes: object) -> Decoder:
    made = config(**changes)
    return Decoder("payments", made.streams["payments"], made.limits)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"{", "not_json"),
        (b"[]", "wrong_type"),
        (b'{"card": "\xff"}', "not_utf8"),
        (b"x" * 2_000_000, "too_large"),
        (GOOD.replace(b"1.5", b'"much"'), "wrong_type"),
        (GOOD.replace(b"1.5", b"true"), "wrong_type"),
        (GOOD.replace(b'"a"', b"null"), "missing_key"),
        (GOOD.replace(b'"ts"', b'"st"'), "missing_time"),
        (GOOD.replace(b"%d" % START_MS, b"-5"), "bad_time"),
        (GOOD.replace(b"%d" % START_MS, b"9e99"), "bad_time"),
        (GOOD.replace(b"}", b', "x": ' + b"[" * 100_000 + b"}"), "not_json"),
    ],
)
def test_a_bad_record_is_a_dead_letter_and_its_neighbours_stay(value: bytes, reason: str) -> None:
    decoded = decoder()(fetch([GOOD, value, GOOD], first=7))
    assert [(letter.reason, letter.offset) for letter in decoded.dead_letters] == [(reason, 8)]
    assert decoded.records.offset.tolist() == [7, 9]
    assert decoded.dead_letters[0].original == value[:4096]


@pytest.mark.parametrize("written", [b"null", b"NaN", b"-Infinity", b"1e999"[:0] + b"null"])
def test_missing_numbers_are_no_error(written: bytes) -> None:
    decoded = decoder()(fetch([GOOD.replace(b"1.5", written)]))
    assert np.isnan(decoded.records.numbers).all()
    assert not decoded.dead_letters


def test_tombstones_are_filtered() -> None:
    decoded = decoder()(fetch([GOOD, None, GOOD]))
    assert (len(decoded.records), decoded.filtered, decoded.records_in) == (2, 1, 3)


def test_required_fields_must_be_there() -> None:
    fields = {"amount": {"type": "number", "required": True}, "country": "category"}
    decoded = decoder(fields=fields)(fetch([GOOD, GOOD.replace(b"1.5", b"null")]))
    assert [letter.reason for letter in decoded.dead_letters] == ["missing_required"]


def test_a_record_far_in_the_future_is_a_dead_letter() -> None:
    later = fetch([GOOD])
    object.__setattr__(later, "timestamps", np.array([(START_MS - 7_200_000) * 10**6]))
    assert decoder()(later).dead_letters[0].reason == "future_time"


@given(st.lists(st.one_of(st.binary(max_size=40), st.just(GOOD), st.none()), max_size=12))
def test_every_message_has_one_fate(values: list[bytes | None]) -> None:
    decoded = decoder()(fetch(values))
    assert decoded.records_in == len(values)


@given(st.lists(st.sampled_from([GOOD, b"{", b"", b'{\n"card":"b","ts":1}']), min_size=1))
def test_whole_fetch_and_single_records_decode_alike(values: list[bytes]) -> None:
    decode = decoder()
    together = decode(fetch(list(values)))
    apart = [decode(fetch([value], first=i)) for i, value in enumerate(values)]
    assert together.records.offset.tolist() == [o for d in apart for o in d.records.offset.tolist()]
    assert together.dead_letters == [letter for d in apart for letter in d.dead_letters]


def test_arrow_messages_hold_many_records() -> None:
    table = pa.table({"card": ["a", "b"], "ts": [START_MS, START_MS + 1], "amount": [1.0, None]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    decode = decoder(source={"topic": "payments", "format": "arrow"})
    decoded = decode(fetch([sink.getvalue().to_pybytes(), b"junk"]))
    assert list(decoded.records.key) == ["a", "b"]
    assert decoded.records.identity(1) == "payments/0/0/1"
    assert [letter.reason for letter in decoded.dead_letters] == ["not_arrow"]


def test_lines_are_read_by_their_pattern() -> None:
    pattern = r"^(?P<ts>\d+) (?P<card>\S+) (?P<amount>\S+) (?P<country>\w+)$"
    decode = decoder(source={"topic": "payments", "format": "lines", "pattern": pattern})
    decoded = decode(fetch([b"%d a 2.5 AT" % START_MS, b"nonsense", b"\xff", b"1 a x AT"]))
    assert decoded.records.numbers.tolist() == [[2.5]]
    reasons = [letter.reason for letter in decoded.dead_letters]
    assert reasons == ["no_match", "not_utf8", "wrong_type"]


def test_labels_are_read_beside_the_features() -> None:
    made = config()
    decode = Decoder("payments", made.streams["payments"], made.limits, label="fraud")
    values = [GOOD.replace(b"}", b', "fraud": 1}'), GOOD.replace(b"}", b', "fraud": 0}'), GOOD]
    labels = decode(fetch(list(values))).records.labels
    assert labels is not None
    assert labels.tolist() == [1, 0, -1]


def test_keys_of_messages_without_one_are_none() -> None:
    assert decoder().message_keys([GOOD, b"{", None]) == ["a", None, None]
    assert len(decoder()(fetch(list(payments(50)))).records) == 50


def test_keys_and_times_are_those_that_decoding_finds() -> None:
    values = list(payments(50, jitter_ms=9000))
    made = decoder()
    keys, times = made.keys_and_times(values)
    records = made(fetch(list(values))).records
    assert (keys, times.tolist()) == (list(records.key), records.time.tolist())


def test_messages_without_a_usable_time_have_none() -> None:
    bad = [GOOD.replace(b"ts", b"st"), GOOD.replace(b"%d" % START_MS, b"-5"), b"{", b"", None]
    no_key = GOOD.replace(b'"a"', b"null")
    keys, times = decoder().keys_and_times([GOOD, *bad, no_key, GOOD])
    assert keys == ["a", "a", "a", None, None, None, None, "a"]
    assert times.tolist() == [at * 10**6 for at in (START_MS, 0, 0, 0, 0, 0, START_MS, START_MS)]
    assert decoder().message_keys([GOOD, *bad, no_key, GOOD]) == keys


def test_a_stream_without_event_times_has_none() -> None:
    keys, times = decoder(time={}).keys_and_times([GOOD, GOOD])
    assert (keys, times.tolist()) == (["a", "a"], [0, 0])


def test_a_message_of_several_records_has_the_latest_of_their_times() -> None:
    def message(*times: int | None) -> bytes:
        table = pa.table({"card": ["a"] * len(times), "ts": pa.array(times, pa.int64())})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]

    made = decoder(source={"topic": "payments", "format": "arrow"})
    keys, times = made.keys_and_times(
        [message(START_MS, START_MS + 9, START_MS + 2), b"?", message(None, START_MS), message()]
    )
    assert keys == ["a", None, "a", None]
    assert times.tolist() == [(START_MS + 9) * 10**6, 0, START_MS * 10**6, 0]
