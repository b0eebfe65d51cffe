"""The header by which a re-keyed record tells where it was first read."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from connectors.base import Origin

__all__ = ["HEADER", "decode_origin", "encode_origin", "find_origin"]

HEADER = "eddy-origin"

# format version, partition, offset; the topic's name follows
LAYOUT = struct.Struct(">BiQ")
VERSION = 1

MAX_OFFSET = 2**63 - 1

# Anybody may write headers, and what they say is kept in memory and in messages: Kafka allows no
# longer names, and no cluster has so many partitions of one topic.
MAX_TOPIC = 249
MAX_PARTITION = 100_000


def encode_origin(origin: Origin) -> bytes:
    """Return the header's value: 13 bytes and the topic's name."""
    return LAYOUT.pack(VERSION, origin.partition, origin.offset) + origin.topic.encode()


def decode_origin(data: bytes) -> Origin:
    """Return the origin that a header's value states.

    Raises
    ------
    ValueError
        If the bytes are not such a value, or one of a later version.
    """
    if len(data) <= LAYOUT.size or data[0] != VERSION:
        msg = f"not an {HEADER} header of version {VERSION}: {data[:32].hex()}"
        raise ValueError(msg)
    _, partition, offset = LAYOUT.unpack_from(data)
    topic = data[LAYOUT.size :]
    if not 0 <= partition <= MAX_PARTITION or offset > MAX_OFFSET or len(topic) > MAX_TOPIC:
        msg = f"no partition {partition} has an offset {offset}: not an {HEADER} header of ours"
        raise ValueError(msg)
    return Origin(topic.decode(), partition, offset)


def find_origin(
    headers: Sequence[tuple[str, bytes | None]], topic: str, partition: int, offset: int
) -> Origin:
    """Return the origin among a record's headers, else the record's own position.

    A header that cannot be read counts as none: anybody may write headers, and the position is
    always true.
    """
    for name, value in headers:
        if name == HEADER and value is not None:
            try:
                return decode_origin(value)
            except ValueError:
                break
    return Origin(topic, partition, offset)
