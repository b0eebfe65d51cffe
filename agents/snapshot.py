"""State as a tree of plain values, and the tree as bytes.

A component with state has ``state()``, which returns a tree that shares no memory with it, so that
another thread may pack the tree while the component goes on, and ``restore(state)``, which makes a
new component of the same configuration go on from there. Restoring copies: the arrays of an
unpacked tree are read-only views of the unpacked bytes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from schemas.errors import DataError

State = dict[str, Any]
"""Names and values: JSON scalars, NumPy arrays of numbers, and lists and trees of these."""

VERSION = 1
_MAGIC = b"EDDYSNAP"
_HEADER = struct.Struct(">8sHQ32s")  # magic, version, length of the body, checksum of the body
_LENGTH = struct.Struct(">Q")  # of the tree, at the beginning of the body
_LEVEL = 1
# what bytes can lead to that somebody has made to look like a snapshot
_UNREADABLE = (
    *(zstandard.ZstdError, msgspec.MsgspecError, struct.error),
    *(MemoryError, TypeError, ValueError),
)
_BLOCK = 1 << 20  # what the compressor takes at once
_ARRAY = 1  # code of arrays among the extension types of MessagePack


def pack(state: State) -> list[bytes]:
    """Write a tree as bytes, compressed, behind a header with a checksum.

    Returns
    -------
    list[bytes]
        The parts of the file. To join them would copy all at once, and keep other threads waiting.

    Notes
    -----
    The bytes of arrays follow the MessagePack of the tree, which says where: so they go straight
    into the compressor, block by block, which does not keep other threads waiting either.
    """
    arrays = _Arrays()
    tree = msgspec.msgpack.encode(state, enc_hook=arrays.put)
    parts: list[bytes | memoryview] = [_LENGTH.pack(len(tree)), *_blocks(memoryview(tree))]
    for content in arrays.content:
        parts += _blocks(content)
    compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj(
        size=_LENGTH.size + len(tree) + arrays.size
    )
    body = [*filter(None, map(compressor.compress, parts)), compressor.flush()]
    header = _HEADER.pack(_MAGIC, VERSION, sum(map(len, body)), _checksum(body))
    return [header, *body]


def unpack(data: bytes) -> State:
    """Read what :func:`pack` wrote.

    Raises
    ------
    DataError
        If the bytes are no snapshot, incomplete, altered, or of another format version.
    """
    if len(data) < _HEADER.size:
        msg = f"snapshot: truncated: {len(data)} bytes, its header alone has {_HEADER.size}"
        raise DataError(msg)
    magic, version, length, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        msg = f"snapshot: begins with {magic!r}, expected {_MAGIC!r}"
        raise DataError(msg)
    if version != VERSION:
        age = "a newer" if version > VERSION else "another"
        msg = f"snapshot: format version {version} of {age} Eddy, this one reads {VERSION}"
        raise DataError(msg)
    body = memoryview(data)[_HEADER.size :]
    if len(body) != length:
        what = "truncated" if len(body) < length else "something follows it"
        msg = f"snapshot: {what}: {len(body)} bytes behind the header, expected {length}"
        raise DataError(msg)
    if _checksum([body]) != checksum:
        msg = "snapshot: the checksum does not match: its bytes were altered"
        raise DataError(msg)
    try:
        content = memoryview(zstandard.ZstdDecompressor().decompress(body))
        [size] = _LENGTH.unpack_from(content)
        tree, rest = content[_LENGTH.size :][:size], content[_LENGTH.size + size :]
        state = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=partial(_array, rest)).decode(tree)
    except _UNREADABLE as error:
        msg = f"snapshot: not written by Eddy, for all its checksum: {error!r}"
        raise DataError(msg) from error
    return state


def copied(owner: object, names: Iterable[str], rows: int | None = None) -> State:
    """Copy attributes of ``owner``, of arrays the first ``rows`` rows; lists must not change."""
    state = {}
    for name in names:
        value = getattr(owner, name)
        state[name.lstrip("_")] = value[:rows].copy() if isinstance(value, np.ndarray) else value
    return state


def put_back(owner: object, names: Iterable[str], state: State) -> None:
    """Set attributes of ``owner`` to what :func:`copied` found."""
    for name in names:
        value = state[name.lstrip("_")]
        setattr(owner, name, value.copy() if isinstance(value, np.ndarray) else value)


def _blocks(content: memoryview) -> Iterable[bytes | memoryview]:
    return (content[at : at + _BLOCK] for at in range(0, len(content), _BLOCK))


def _checksum(body: Iterable[bytes | memoryview]) -> bytes:
    checksum = hashlib.blake2b(digest_size=32)
    for part in body:
        checksum.update(part)
    return checksum.digest()


class _Arrays:
    """Takes the arrays out of a tree that is being packed."""

    def __init__(self) -> None:
        self.content: list[memoryview] = []
        self.size = 0

    def put(self, value: Any) -> msgspec.msgpack.Ext:
        """Return what stands for an array in the tree."""
        if not isinstance(value, np.ndarray) or not _is_plain(value.dtype):
            kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            msg = f"a state holds numbers, texts and arrays of numbers, not {kind}"
            raise DataError(msg)
        where = (value.dtype.str, value.shape, self.size)
        self.content.append(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        self.size += value.nbytes
        return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode(where))


def _array(content: memoryview, code: int, where: memoryview) -> NDArray[Any]:
    """Return the array that something in the tree stands for."""
    name, shape, start = _where.decode(where)
    dtype = np.dtype(name)
    if code != _ARRAY or not _is_plain(dtype):
        msg = f"snapshot: extension {code} with {name!r} is no array of numbers"
        raise DataError(msg)
    return np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape)


def _is_plain(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biuf" and dtype.itemsize <= 8


_where = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], int])
