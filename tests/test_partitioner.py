"""Keys go where Kafka's own clients put them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from connectors.partitioner import WORTH_VECTORS, partition_of, partitions_of
from schemas.errors import ConfigError

KEYS = st.lists(st.binary(max_size=40), max_size=60)


def by_kafka_python(key: bytes, partitions: int) -> int:
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


@given(KEYS, st.integers(1, 1000))
def test_equals_kafka_python(keys: list[bytes], partitions: int) -> None:
    expected = [by_kafka_python(key, partitions) for key in keys]
    assert partitions_of(keys, partitions).tolist() == expected
    assert [partition_of(key, partitions) for key in keys] == expected


@given(st.binary(max_size=40), st.integers(0, 255))
def test_many_keys_of_one_length_equal_kafka_python(key: bytes, last: int) -> None:
    keys = [key + bytes([(last + n) % 256]) for n in range(2 * WORTH_VECTORS)]
    assert partitions_of(keys, 12).tolist() == [by_kafka_python(key, 12) for key in keys]


def test_known_values() -> None:
    # hashes that the tests of Kafka's Java client expect, written as unsigned numbers
    assert partition_of(b"21", 1 << 31) == -973932308 & 0x7FFFFFFF
    assert partition_of(b"foobar", 1 << 31) == -790332482 & 0x7FFFFFFF


def test_no_keys() -> None:
    assert partitions_of([], 3).shape == (0,)


@pytest.mark.parametrize("partitions", [0, -1])
def test_a_topic_has_partitions(partitions: int) -> None:
    with pytest.raises(ConfigError, match="at least 1 partition"):
        partition_of(b"key", partitions)
    with pytest.raises(ConfigError, match="at least 1 partition"):
        partitions_of([b"key"], partitions)
