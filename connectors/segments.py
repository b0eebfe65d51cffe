"""Segments: the large part of a checkpoint, as files that one checkpoint shares with the next.

Beside the checkpoints of a partition, under names that are never given twice::

    <folder of the partition>/segment-<generation>-<writer>-<number>

A checkpoint that needs any begins with their names, so that they are found without reading it all.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import struct
from collections.abc import Iterable, Sequence
from typing import IO, NamedTuple

from connectors.storage import Storage
from schemas.errors import DataError

__all__ = ["Segment", "Segments", "framed", "needed", "unframed"]

SEGMENT = re.compile(r"segment-(\d{10})-([0-9a-f]{16})-\d{10}")
_MAGIC = b"EDDYNEED"
_HEADER = struct.Struct(">8sI16s")  # magic, length of the names, their checksum


class Segment(NamedTuple):
    """A segment on the storage: its name in the partition's folder, its size and checksum."""

    name: str
    size: int
    checksum: str


class Segments:
    """The segments of the partitions of one cluster.

    Parameters
    ----------
    storage
        Where they are.
    writer
        The process, as in the names of checkpoints.
    """

    def __init__(self, storage: Storage, writer: str) -> None:
        self._storage, self._writer = storage, writer
        self._numbers = itertools.count()
        self._idle: dict[str, set[str]] = {}  # what no checkpoint needed lately, by folder

    def write(self, folder: str, generation: int, data: bytes) -> Segment:
        """Write a segment of a partition; return what it takes to read it.

        Raises
        ------
        SetupError
            If the storage does not take it.
        """
        name = f"segment-{generation:010d}-{self._writer}-{next(self._numbers):010d}"
        self._storage.write(f"{folder}/{name}", data)
        return Segment(name, len(data), _checksum(data))

    def read(self, folder: str, segment: Segment) -> bytes:
        """Return the bytes of a segment.

        Raises
        ------
        DataError
            If it is not there, or not what was written.
        SetupError
            If the storage cannot be reached.
        """
        data = self._storage.read(f"{folder}/{segment.name}")
        if (len(data), _checksum(data)) != (segment.size, segment.checksum):
            msg = (
                f"{folder}/{segment.name}: {len(data)} bytes that are not the {segment.size} which "
                "were written; it was altered or cut off"
            )
            raise DataError(msg)
        return data

    def prune(self, folder: str, names: set[str], needed: set[str], generation: int) -> list[str]:
        """Delete what no checkpoint needs; return the names.

        What an owner of the partition that this process does not know of yet may have written for
        a checkpoint that is still to come stays: segments of this generation by others, and of
        later ones. And a segment goes only when no checkpoint has needed it the second time
        already: a former owner that does not know yet that it is one gets no further than once.

        Parameters
        ----------
        folder
            The partition's.
        names
            The files of the folder, from before its checkpoints were looked at.
        needed
            The segments that its checkpoints name.
        generation
            The group's generation in which the partition is ours.
        """
        idle = set()
        for name in names - needed:
            match = SEGMENT.fullmatch(name)
            if match and (int(match[1]) < generation or match[2] == self._writer):
                idle.add(name)
        useless = sorted(idle & self._idle.get(folder, set()))
        for name in useless:
            self._storage.delete(f"{folder}/{name}")
        self._idle[folder] = idle - set(useless)
        return [f"{folder}/{name}" for name in useless]


def framed(data: bytes | Sequence[bytes], needs: Iterable[str]) -> list[bytes]:
    """Put the names of segments before the bytes of a checkpoint, if it needs any or looks so."""
    parts = [data] if isinstance(data, bytes) else list(data)
    names = "\n".join(sorted(needs)).encode()
    if not names and not parts[0].startswith(_MAGIC):
        return parts
    header = _HEADER.pack(_MAGIC, len(names), bytes.fromhex(_checksum(names)))
    return [header, names, *parts]


def unframed(data: bytes) -> bytes:
    """Return the bytes of a checkpoint without the names; damaged ones with whatever is there."""
    if not data.startswith(_MAGIC) or len(data) < _HEADER.size:
        return data
    return data[_HEADER.size + _HEADER.unpack_from(data)[1] :]


def needed(file: IO[bytes]) -> set[str]:
    """Read the names of segments at the beginning of a checkpoint.

    Raises
    ------
    DataError
        If they were altered or cut off.
    """
    header = file.read(_HEADER.size)
    if not header.startswith(_MAGIC):
        return set()
    if len(header) == _HEADER.size:
        _, length, checksum = _HEADER.unpack(header)
        names = file.read(length)
        if bytes.fromhex(_checksum(names)) == checksum:
            return set(names.decode().split("\n")) - {""}
    msg = "the names of a checkpoint's segments were altered or cut off"
    raise DataError(msg)


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
