"""Re-keying: time order across partitions, nothing lost, nothing committed too early."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.base import Fetch, Origin, Output, Partition
from connectors.kafka.origin import (
    HEADER,
    MAX_PARTITION,
    MAX_TOPIC,
    decode_origin,
    encode_origin,
    find_origin,
)
from connectors.kafka.rekey import Rekeyer

MS = 1_000_000


def fetch(number: int, offsets: Sequence[int], times: Sequence[int]) -> Fetch:
    return Fetch(
        Partition("in", number),
        np.array(offsets, np.int64),
        np.array(times, np.int64) * MS,
        [None] * len(offsets),
        [f"{number}/{offset}".encode() for offset in offsets],
    )


def entity(batch: Fetch) -> list[bytes | None]:
    """Key by the last digit of the offset; every tenth record cannot be decoded."""
    return [None if x % 10 == 9 else str(x % 10).encode() for x in batch.offsets.tolist()]


def origin(output: Output) -> Origin:
    [(name, data)] = output.headers
    assert name == HEADER
    return decode_origin(data)


# for each partition the steps between timestamps; 0 makes ties
logs = st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=4)


def preload(steps: list[list[int]]) -> list[Fetch]:
    return [
        fetch(number, range(len(log)), np.cumsum(log).tolist())
        for number, log in enumerate(steps)
        if log
    ]


@given(logs)
def test_preloaded_partitions_come_out_in_time_order(steps: list[list[int]]) -> None:
    rekeyer = Rekeyer("out", entity)
    everything = [Partition("in", number) for number in range(len(steps))]
    rekeyer.assign(everything)
    fetches = preload(steps)
    batch = rekeyer.add(fetches, everything)
    expected = sorted(
        (time // MS, one.partition.number, offset)
        for one in fetches
        for time, offset in zip(one.timestamps.tolist(), one.offsets.tolist(), strict=True)
    )
    found = [(x.timestamp_ms, origin(x).partition, origin(x).offset) for x in batch.merged]
    assert found == expected
    assert batch.positions == {x.partition: len(x) for x in fetches}
    assert rekeyer.held == 0


@given(logs, st.data())
def test_however_records_arrive_the_order_is_the_same(
    steps: list[list[int]], data: st.DataObject
) -> None:
    """Cut every log anywhere and hand over the pieces in any interleaving."""
    rekeyer = Rekeyer("out", entity)
    everything = {Partition("in", number) for number in range(len(steps))}
    rekeyer.assign(everything)
    left = {one.partition: one for one in preload(steps)}
    outputs: list[Output] = []
    positions = dict.fromkeys(everything, 0)
    while left:
        partition = data.draw(st.sampled_from(sorted(left)))
        cut = data.draw(st.integers(1, len(left[partition])))
        piece, rest = left[partition][:cut], left[partition][cut:]
        if len(rest):
            left[partition] = rest
        else:
            del left[partition]
        batch = rekeyer.add([piece], everything - left.keys())
        outputs += batch.merged
        for place, position in batch.positions.items():
            assert position > positions[place]
            positions[place] = position
        written = [origin(x) for x in outputs]
        for place in everything:
            # exactly the records before the position are out: none is lost, none repeated
            mine = [x.offset for x in written if x.partition == place.number]
            assert mine == list(range(positions[place]))
    together = Rekeyer("out", entity)
    together.assign(everything)
    assert outputs == list(together.add(preload(steps), everything).merged)


def test_an_awaited_partition_holds_the_others_back() -> None:
    rekeyer = Rekeyer("out", entity)
    first, second = Partition("in", 0), Partition("in", 1)
    rekeyer.assign([first, second])
    assert rekeyer.add([fetch(0, [0, 1], [10, 30])], exhausted=()).merged == []
    assert rekeyer.held == 2
    batch = rekeyer.add([fetch(1, [0], [20])], exhausted={second})
    assert [origin(x)[1:] for x in batch.merged] == [(0, 0), (1, 0), (0, 1)]
    assert batch.positions == {first: 2, second: 1}


def test_a_partition_may_turn_out_to_be_exhausted_later() -> None:
    rekeyer = Rekeyer("out", entity)
    first, second = Partition("in", 0), Partition("in", 1)
    rekeyer.assign([first, second])
    rekeyer.add([fetch(0, [0], [10])], exhausted={first})
    assert len(rekeyer.add([], exhausted={first, second}).merged) == 1


def test_a_revoked_partition_is_not_waited_for_and_not_written() -> None:
    rekeyer = Rekeyer("out", entity)
    first, second = Partition("in", 0), Partition("in", 1)
    rekeyer.assign([first, second])
    rekeyer.add([fetch(0, [0], [10])], exhausted=())
    rekeyer.revoke([first])
    batch = rekeyer.add([fetch(1, [0], [20])], exhausted=())
    assert [origin(x).partition for x in batch.merged] == [1]


def test_a_record_out_of_order_keeps_its_place_in_its_partition() -> None:
    rekeyer = Rekeyer("out", entity)
    first, second = Partition("in", 0), Partition("in", 1)
    rekeyer.assign([first, second])
    fetches = [fetch(0, [0, 1, 2], [50, 10, 60]), fetch(1, [0, 1], [20, 55])]
    batch = rekeyer.add(fetches, exhausted={first, second})
    assert [origin(x)[1:] for x in batch.merged] == [(1, 0), (0, 0), (0, 1), (1, 1), (0, 2)]
    assert [x.timestamp_ms for x in batch.merged] == [20, 50, 10, 55, 60]


def test_what_cannot_be_decoded_keeps_its_key_and_value() -> None:
    rekeyer = Rekeyer("out", lambda batch: [None] * len(batch))
    place = Partition("in", 3)
    rekeyer.assign([place])
    bad = Fetch(place, np.array([7]), np.array([5 * MS]), [b"host-1"], [b"\xff"])
    [output] = rekeyer.add([bad], exhausted={place}).merged
    assert (output.key, output.value, output.timestamp_ms) == (b"host-1", b"\xff", 5)
    assert origin(output) == Origin("in", 3, 7)


def test_what_has_no_key_at_all_always_goes_to_the_same_partition() -> None:
    rekeyer = Rekeyer("out", lambda batch: [None] * len(batch))
    place = Partition("in", 3)
    rekeyer.assign([place])
    batch = rekeyer.add([fetch(3, [0, 1], [1, 2])], exhausted={place})
    assert [output.key for output in batch.merged] == [b"in/3", b"in/3"]


def test_an_origin_in_the_topic_itself_is_not_believed() -> None:
    rekeyer = Rekeyer("out", entity)
    place = Partition("in", 0)
    rekeyer.assign([place])
    claim = Origin("in", 0, 2**40)
    record = Fetch(place, np.array([5]), np.array([0]), [None], [b"v"], [claim])
    [output] = rekeyer.add([record], exhausted={place}).merged
    assert origin(output) == Origin("in", 0, 5)


def test_a_tombstone_is_dropped_and_passed() -> None:
    rekeyer = Rekeyer("out", entity)
    place = Partition("in", 0)
    rekeyer.assign([place])
    tombstone = Fetch(place, np.array([0]), np.array([0]), [b"k"], [None])
    batch = rekeyer.add([tombstone], exhausted={place})
    assert (list(batch.merged), batch.positions) == ([], {place: 1})


def test_an_earlier_origin_is_kept() -> None:
    rekeyer = Rekeyer("out", entity)
    place = Partition("in", 0)
    rekeyer.assign([place])
    true = Origin("first", 5, 99)
    again = Fetch(place, np.array([0]), np.array([0]), [None], [b"v"], [true])
    [output] = rekeyer.add([again], exhausted={place}).merged
    assert origin(output) == true


topics = st.text(min_size=1).filter(lambda topic: len(topic.encode()) <= MAX_TOPIC)


@given(topics, st.integers(0, MAX_PARTITION), st.integers(0, 2**63 - 1))
def test_origins_survive_their_header(topic: str, partition: int, offset: int) -> None:
    where = Origin(topic, partition, offset)
    assert decode_origin(encode_origin(where)) == where


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02" + encode_origin(Origin("t", 1, 2))[1:],
        b"\x01abc",
        encode_origin(Origin("t", 1, 2**63)),
        encode_origin(Origin("t", -1, 2)),
    ],
)
def test_a_header_that_is_none_of_ours_is_refused_and_ignored(data: bytes) -> None:
    with pytest.raises(ValueError, match="eddy-origin header"):
        decode_origin(data)
    assert find_origin([(HEADER, data)], "t", 1, 2) == Origin("t", 1, 2)
