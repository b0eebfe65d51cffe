"""Kafka's default partitioner: which partition a keyed record goes to.

The hash is the 32-bit MurmurHash2 with Kafka's seed, so keys land where the Java client, librdkafka
with ``murmur2`` and kafka-python put them. The batch form hashes all keys of one length together,
one 32-bit word of every key at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigError

__all__ = ["partition_of", "partitions_of"]

SEED = 0x9747B28C
MULTIPLIER = 0x5BD1E995
WORD = 0xFFFFFFFF
POSITIVE = 0x7FFFFFFF  # the Java client drops the sign bit instead of taking the absolute value

# Below this many keys of one length, a call into NumPy per word costs more than plain Python; a
# single key of a megabyte would take seconds.
WORTH_VECTORS = 24


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of one key.

    Raises
    ------
    ConfigError
        If ``partitions`` is less than 1.
    """
    _check(partitions)
    return (_hash(key) & POSITIVE) % partitions


def partitions_of(keys: Sequence[bytes], partitions: int) -> NDArray[np.int64]:
    """Return the partition of each key.

    Parameters
    ----------
    keys
        ``n`` keys, none of them null (Kafka spreads records without a key as it likes).
    partitions
        Number of partitions of the topic, at least 1.

    Returns
    -------
    NDArray[np.int64]
        ``[n]``, each ``0 <= p < partitions``.

    Raises
    ------
    ConfigError
        If ``partitions`` is less than 1.
    """
    _check(partitions)
    hashes = np.empty(len(keys), np.int64)
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    for length in sorted(set(lengths.tolist())):
        rows = np.flatnonzero(lengths == length)
        alike = [keys[row] for row in rows.tolist()]
        if len(alike) < WORTH_VECTORS:
            hashes[rows] = [_hash(key) for key in alike]
        else:
            hashes[rows] = _hashes(alike, length)
    return (hashes & POSITIVE) % partitions


def _check(partitions: int) -> None:
    if partitions < 1:
        msg = f"a topic has at least 1 partition, not {partitions}: raise `partitions`"
        raise ConfigError(msg)


def _hash(key: bytes) -> int:
    """Hash one key."""
    whole = len(key) - len(key) % 4
    state = SEED ^ len(key)
    for word in struct.unpack_from(f"<{whole // 4}I", key):
        mixed = word * MULTIPLIER & WORD
        mixed = (mixed ^ mixed >> 24) * MULTIPLIER & WORD
        state = (state * MULTIPLIER & WORD) ^ mixed
    if whole < len(key):
        state = (state ^ int.from_bytes(key[whole:], "little")) * MULTIPLIER & WORD
    state = (state ^ state >> 13) * MULTIPLIER & WORD
    return state ^ state >> 15


def _hashes(keys: Sequence[bytes], length: int) -> NDArray[np.uint32]:
    """Hash keys of one length; uint32 arithmetic wraps by itself."""
    multiplier = np.uint32(MULTIPLIER)
    data = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), length)
    padded = np.zeros((len(keys), -(-length // 4) * 4), np.uint8)
    padded[:, :length] = data
    words = padded.view("<u4").astype(np.uint32, copy=False).T
    state = np.full(len(keys), SEED ^ length, np.uint32)
    for word in words[: length // 4]:
        mixed = word * multiplier
        mixed ^= mixed >> np.uint32(24)
        mixed *= multiplier
        state *= multiplier
        state ^= mixed
    if length % 4:
        state ^= words[-1]
        state *= multiplier
    state ^= state >> np.uint32(13)
    state *= multiplier
    state ^= state >> np.uint32(15)
    return state
