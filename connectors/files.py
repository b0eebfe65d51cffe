"""History from files, and outputs to a file.

In: JSON lines, plain log text, CSV or Parquet, each as it is or compressed (``.gz``, ``.zst``).
Out: raw message values in file order. What a message means, and whether it can be understood, is
for decoding to say: junk and invalid UTF-8 pass through.
"""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np
import pyarrow as pa

from connectors.base import Fetch, Output, Partition
from connectors.tables import csv_messages, parquet_messages
from schemas.errors import DataError, SetupError

__all__ = ["FileSink", "FileSource", "Format", "expand", "format_of", "read_messages"]

Format = Literal["jsonl", "csv", "parquet", "lines"]
Paths = str | Path | Sequence[str | Path]

CHUNK = 8192
MAX_BYTES = 1_048_576
BLOCK_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"

CODECS = {".gz": "gzip", ".zst": "zstd"}
FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


def format_of(path: Path) -> Format:
    """Tell the format of a file by its name, ``.gz`` and ``.zst`` put aside; else ``lines``."""
    inner = path.with_suffix("") if _codec(path) else path
    return FORMATS.get(inner.suffix.lower(), "lines")


def _codec(path: Path) -> str | None:
    return CODECS.get(path.suffix.lower())


def expand(paths: Paths) -> list[Path]:
    """List the files that paths and globs name, in the order given; a glob's files sorted.

    Raises
    ------
    DataError
        If a path or glob names no file, or names a directory.
    """
    found: list[Path] = []
    for given in [paths] if isinstance(paths, str | Path) else paths:
        text = str(given)
        # a file may have brackets in its name
        names = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))
        if not names:
            msg = f"no file {text}: check the path, or quote a glob so that the shell leaves it"
            raise DataError(msg)
        for name in names:
            if Path(name).is_dir():
                msg = f"{name} is a directory: name the files in it, for example {name}/*.jsonl"
                raise DataError(msg)
            found.append(Path(name))
    return found


def read_messages(
    paths: Paths,
    format: Format | None = None,
    *,
    chunk: int = CHUNK,
    max_bytes: int = MAX_BYTES,
) -> Iterator[list[bytes]]:
    r"""Read messages from files, in order.

    A line of text or JSON is a message, without its line ending (``\n`` or ``\r\n``), also
    when it is empty or no JSON. A row of CSV or Parquet becomes a JSON object, see
    :mod:`connectors.tables`. Memory does not grow with the files, nor with the length of a line.

    Parameters
    ----------
    paths
        Files and globs.
    format
        Format of all the files; by default each file's name tells it.
    chunk
        Messages per list; the last list may be shorter.
    max_bytes
        Of a longer message only the first ``max_bytes + 1`` bytes are kept, so that decoding
        still sees that it is too long.

    Yields
    ------
    list[bytes]
        Up to ``chunk`` messages, at least one.

    Raises
    ------
    DataError
        At once if a file is missing or is a directory; while reading if a file is damaged, for
        example cut off.
    """
    files = expand(paths)
    return _chunks(_pieces(files, format, chunk, max_bytes), chunk, max_bytes)


def _pieces(
    files: Iterable[Path], kind: Format | None, chunk: int, max_bytes: int
) -> Iterator[list[bytes]]:
    """Read one file after the other, in lists of any length."""
    for path in files:
        try:
            yield from _read(path, kind or format_of(path), chunk, max_bytes)
        except OSError as error:
            msg = f"cannot read {path}: {error}. Check that it is whole and readable"
            raise DataError(msg) from error


def _read(path: Path, kind: Format, chunk: int, max_bytes: int) -> Iterator[list[bytes]]:
    if kind == "parquet":
        with _seekable(path) as source:
            yield from parquet_messages(source, chunk, str(path))
    elif kind == "csv":
        with _open(path) as stream:
            head = stream.read(BLOCK_BYTES)
        with _open(path) as stream:
            yield from csv_messages(head, stream, str(path))
    else:
        with _open(path) as stream:
            yield from _lines(stream, max_bytes)


def _open(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed."""
    file = pa.OSFile(str(path))
    codec = _codec(path)
    opened: IO[bytes] = pa.CompressedInputStream(file, codec) if codec else file
    return opened


@contextmanager
def _seekable(path: Path) -> Iterator[str | IO[bytes]]:
    """Give a file that can seek, as Parquet needs it: a compressed one through a spool file."""
    if _codec(path) is None:
        yield str(path)
        return
    with _open(path) as stream, tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(stream, spool, BLOCK_BYTES)
        yield spool


def _lines(stream: IO[bytes], max_bytes: int) -> Iterator[list[bytes]]:
    keep = max_bytes + 2  # one byte to show that a line is too long, one for a carriage return
    rest = b""
    first = True
    while block := stream.read(BLOCK_BYTES):
        block = block.removeprefix(BOM) if first else block
        first = False
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            yield _split(rest + head)
            rest = tail[:keep]
        else:
            rest = (rest + tail)[:keep]
    if rest:
        yield _split(rest)


def _split(text: bytes) -> list[bytes]:
    text = text.removesuffix(b"\r")
    if b"\r\n" in text:
        text = text.replace(b"\r\n", b"\n")
    return text.split(b"\n")


def _chunks(pieces: Iterator[list[bytes]], chunk: int, max_bytes: int) -> Iterator[list[bytes]]:
    """Cut lists of any length into lists of ``chunk`` messages, and messages to the limit."""
    limit = max_bytes + 1
    waiting: list[bytes] = []
    for piece in pieces:
        waiting += [message[:limit] for message in piece]
        whole = len(waiting) - len(waiting) % chunk
        for start in range(0, whole, chunk):
            yield waiting[start : start + chunk]
        del waiting[:whole]
    if waiting:
        yield waiting


class FileSource:
    """Files as partition 0 of a topic, offsets counted from 0 on through all files.

    Files hold no keys and no log time: keys are null, timestamps 0.

    Parameters
    ----------
    paths, format, chunk, max_bytes
        As for :func:`read_messages`; ``chunk`` is the length of a fetch.
    topic
        The topic that the records claim to come from.

    Raises
    ------
    DataError
        If a file is missing or is a directory.
    """

    def __init__(
        self,
        paths: Paths,
        topic: str,
        format: Format | None = None,
        *,
        chunk: int = CHUNK,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._files = expand(paths)
        self._partition = Partition(topic, 0)
        self._format = format
        self._chunk = chunk
        self._max_bytes = max_bytes
        self._closed = False

    def fetches(self) -> Iterator[Fetch]:
        """Yield the records in file order, until the source is closed.

        Raises
        ------
        DataError
            If a file is damaged.
        """
        offset = 0
        for values in read_messages(
            self._files, self._format, chunk=self._chunk, max_bytes=self._max_bytes
        ):
            if self._closed:
                return
            count = len(values)
            yield Fetch(
                self._partition,
                np.arange(offset, offset + count, dtype=np.int64),
                np.zeros(count, np.int64),
                [None] * count,
                values,
            )
            offset += count

    def close(self) -> None:
        """End every iteration at its next step; it lets go of its file then."""
        self._closed = True


class FileSink:
    """The values of outputs as lines of a file, appended to what it holds.

    Values are JSON documents without line breaks, as all of Eddy's messages are. Once ``write``
    returns they outlive a crash of the process. If an earlier run left half a line, the next
    output still starts a line of its own.

    Parameters
    ----------
    path
        The file; its parent directories are made.
    topics
        Keep only outputs of these topics; by default of all.

    Raises
    ------
    SetupError
        If the file cannot be opened for writing.
    """

    def __init__(self, path: str | Path, topics: Iterable[str] | None = None) -> None:
        self._path = Path(path)
        self._topics = None if topics is None else frozenset(topics)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
            if not _ends_line(self._path):
                self._file.write(b"\n")
        except OSError as error:
            msg = f"cannot write to {path}: {error}. Name a file in a directory that is writable"
            raise SetupError(msg) from error

    def write(self, outputs: Sequence[Output]) -> None:
        """Append the values of the outputs, each as a line.

        Raises
        ------
        DataError
            If a value contains a line break; then nothing was written.
        SetupError
            If the file cannot take it, for example because the disk is full, or is closed.
        """
        if self._file.closed:
            msg = f"{self._path} is closed: write before close()"
            raise SetupError(msg)
        chosen = [o for o in outputs if self._topics is None or o.topic in self._topics]
        for output in chosen:
            if b"\n" in output.value:
                msg = (
                    f"a value for topic {output.topic} has a line break ({output.value[:80]!r}): "
                    f"{self._path} holds one JSON document a line; leave the topic out"
                )
                raise DataError(msg)
        try:
            self._file.write(b"".join(output.value + b"\n" for output in chosen))
            self._file.flush()
        except OSError as error:
            msg = f"cannot write to {self._path}: {error}. Make room, then write again"
            raise SetupError(msg) from error

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        self._file.close()


def _ends_line(path: Path) -> bool:
    """Tell whether a file is empty or ends with a line break."""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return True
        file.seek(-1, 2)
        return file.read() == b"\n"
