"""Where artefacts, checkpoints and archives live: a directory, S3 or Google Cloud Storage.

In and out: named byte strings and Parquet tables. A name is a relative path with ``/`` between
its parts. A file appears whole or not at all, and a set of files counts only with its manifest.
"""

from __future__ import annotations

import builtins
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from schemas.errors import ConfigError, DataError, SetupError

__all__ = ["MANIFEST", "Storage", "StoredFile", "without_credentials"]

MANIFEST = "manifest.json"

SCHEMES = ("file", "s3", "gs")

IDENTITY = "storage-id"

# Files being written; they are invisible, and no name may look like one.
TEMPORARY = ".writing-"

# The client of Google Cloud tries for a quarter of an hour by itself, saying nothing.
RETRY_SECONDS = 60

BAD_PART = re.compile(rf"^$|^\.\.?$|^{re.escape(TEMPORARY)}|[\\\x00-\x1f\x7f]")


class StoredFile(NamedTuple):
    """A file of a storage: its name, its size, and when it was written (ns since 1970 UTC)."""

    name: str
    size_bytes: int
    modified_ns: int


class Storage:
    """Files below a URI. May be used from several threads.

    Parameters
    ----------
    uri
        A directory (made when it is missing), ``file://…``, ``s3://bucket/path`` or
        ``gs://bucket/path``. Credentials come from the environment, as the cloud's own tools
        read them; options such as ``?endpoint_override=…`` may follow.

    Raises
    ------
    ConfigError
        If the URI is of another scheme.
    SetupError
        If the storage cannot be reached.
    """

    def __init__(self, uri: str | Path) -> None:
        self._given = str(uri)
        self.uri = without_credentials(self._given)
        scheme, separator, _ = self._given.partition("://")
        if separator and scheme not in SCHEMES:
            msg = f"storage {self.uri}: no scheme {scheme!r}; use a directory, s3:// or gs://"
            raise ConfigError(msg)
        self._local = not separator or scheme == "file"
        with self._reachable("open"):
            if separator:
                filesystem, path = fs.FileSystem.from_uri(_impatient(self._given))
            else:
                filesystem, path = fs.LocalFileSystem(), str(Path(uri).absolute())
            if self._local:
                filesystem.create_dir(path, recursive=True)
            self._fs = fs.SubTreeFileSystem(path, filesystem)
            self._directory = Path(path)
            self._fs.get_file_info("")

    def identify(self) -> str:
        """Return what tells this storage from all others, from whichever host it is seen.

        A bucket is named by its URI. One path may be another directory on each host, so a
        directory has a random id in a file, which its first user makes.

        Raises
        ------
        SetupError
            If the storage cannot be reached.
        """
        if not self._local:
            return self.uri.rstrip("/")
        with self._reachable("identify"):
            path = self._directory / IDENTITY
            if not path.exists():
                _write_once(path, uuid.uuid4().hex.encode())
            return path.read_text()

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    def write(self, name: str, data: bytes | Sequence[bytes]) -> None:
        """Write a file, or replace it; a reader sees the old bytes or the new, never a mixture.

        Parameters
        ----------
        name
            Its name.
        data
            Its bytes, in one piece or several.

        Raises
        ------
        DataError
            If ``name`` is no legal name.
        SetupError
            If the storage does not take it.
        """
        _check(name)
        parts = [data] if isinstance(data, bytes) else data
        with self._reachable(f"write {name} to"):
            if self._local:
                _write_local(self._directory / name, parts)
            else:
                # an object store shows an object when its upload is complete
                with self._fs.open_output_stream(name) as stream:
                    for part in parts:
                        stream.write(part)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises
        ------
        DataError
            If there is no such file.
        SetupError
            If the storage cannot be reached.
        """
        with self._reachable(f"read {name} from"), self.open(name) as file:
            data: bytes = file.read()
            return data

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading parts of it; the caller closes it.

        Raises
        ------
        DataError
            If there is no such file.
        SetupError
            If the storage cannot be reached.
        """
        _check(name)
        with self._reachable(f"open {name} in"):
            try:
                file: IO[bytes] = self._fs.open_input_file(name)
            except FileNotFoundError as error:
                msg = f"storage {self.uri} holds no {name}: it was never written, or deleted"
                raise DataError(msg) from error
        return file

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is no error.

        Raises
        ------
        SetupError
            If the storage cannot be reached.
        """
        _check(name)
        with self._reachable(f"delete {name} from"), suppress(FileNotFoundError):
            self._fs.delete_file(name)

    def files(self, prefix: str = "") -> tuple[StoredFile, ...]:
        """Describe the files below a directory, at any depth, ordered by name.

        Raises
        ------
        SetupError
            If the storage cannot be reached.
        """
        prefix = prefix.rstrip("/")
        if prefix:
            _check(prefix)
        selector = fs.FileSelector(prefix, allow_not_found=True, recursive=True)
        with self._reachable("list"):
            found = self._fs.get_file_info(selector)
        files = (
            StoredFile(info.path.lstrip("/"), info.size, info.mtime_ns or 0)
            for info in found
            if info.is_file and not info.base_name.startswith(TEMPORARY)
        )
        return tuple(sorted(files))

    def list(self, prefix: str = "") -> builtins.list[str]:
        """Return the names of the files below a directory, at any depth, sorted.

        Raises
        ------
        SetupError
            If the storage cannot be reached.
        """
        return [file.name for file in self.files(prefix)]

    def write_all(self, prefix: str, files: Mapping[str, bytes]) -> None:
        """Write a set of files, ``manifest.json`` last; whatever else was there goes.

        Parameters
        ----------
        prefix
            Their directory.
        files
            Name below ``prefix`` to bytes; one is ``manifest.json``.

        Raises
        ------
        DataError
            If there is no manifest among the files, or a name is not legal.
        SetupError
            If the storage does not take them.
        """
        if MANIFEST not in files:
            msg = f"{prefix}: the files {sorted(files)} have no {MANIFEST}; add one"
            raise DataError(msg)
        for name in files:
            _check(f"{prefix}/{name}")
        self.delete(f"{prefix}/{MANIFEST}")
        for old in self.list(prefix):
            if old.removeprefix(f"{prefix}/") not in files:
                self.delete(old)
        for name in sorted(files, key=lambda name: name == MANIFEST):
            self.write(f"{prefix}/{name}", files[name])

    def read_all(self, prefix: str) -> dict[str, bytes]:
        """Return the files that :meth:`write_all` wrote, by their names below ``prefix``.

        Raises
        ------
        DataError
            If the set is not there, or not complete.
        SetupError
            If the storage cannot be reached.
        """
        names = self.list(prefix)
        if f"{prefix}/{MANIFEST}" not in names:
            state = "incomplete, its writer did not finish" if names else "not there"
            msg = f"storage {self.uri}: {prefix} is {state} (no {MANIFEST}); write it again"
            raise DataError(msg)
        return {name.removeprefix(f"{prefix}/"): self.read(name) for name in names}

    def write_table(self, name: str, table: pa.Table) -> int:
        """Write a table as a Parquet file; return its size in bytes.

        Raises
        ------
        SetupError
            If the storage does not take it.
        """
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        data: bytes = buffer.getvalue().to_pybytes()
        self.write(name, data)
        return len(data)

    def read_table(self, name: str) -> pa.Table:
        """Return the table in a Parquet file.

        Raises
        ------
        DataError
            If there is no such file, or it is no Parquet file.
        SetupError
            If the storage cannot be reached.
        """
        data = self.read(name)
        try:
            return pq.read_table(pa.BufferReader(data))
        except (pa.ArrowInvalid, OSError) as error:
            msg = f"storage {self.uri}: {name} is no whole Parquet file ({error}); delete it"
            raise DataError(msg) from error

    def _without_secrets(self, text: str) -> str:
        """Take credentials out of what a client says, however it quotes them."""
        text = text.replace(self._given, self.uri)
        found = re.search(r"(?<=://)(?=[^/@]*[:@])(.*)@", self._given)
        for part in found[1].split(":") if found else ():
            for written in filter(None, (part, unquote(part))):
                text = text.replace(written, "…")
        return text

    @contextmanager
    def _reachable(self, action: str) -> Iterator[None]:
        """Turn what a file system raises into an error that names the storage."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            why = self._without_secrets(str(error))
            msg = (
                f"cannot {action} storage {self.uri}: {why}. "
                "Check the URI, the credentials, and that the place can be written to"
            )
            raise SetupError(msg) from None  # what it quotes is not for a traceback


def without_credentials(uri: str) -> str:
    """Return a storage's URI without credentials and options, which belong in no message."""
    # a key that is not quoted as it should be may hold a slash or an at sign
    return re.sub(r"(?<=://)(?=[^/@]*[:@]).*@|\?.*$", "", uri)


def _impatient(uri: str) -> str:
    """Limit the time that a URI's client tries to reach its service, unless the URI does."""
    if not uri.startswith("gs://") or "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={RETRY_SECONDS}"


def _check(name: str) -> None:
    """Refuse names that lead out of the storage or mean different things to different stores."""
    if any(BAD_PART.search(part) for part in name.split("/")):
        msg = (
            f"{name!r} is no name for a stored file: write parts with / between them, "
            "without '..', '.', backslashes and control characters"
        )
        raise DataError(msg)


def _write_local(path: Path, parts: Sequence[bytes]) -> None:
    """Write beside the file, then rename: durable, and never half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_once(path: Path, data: bytes) -> None:
    """Write a file unless there is one; of several who try at once, one succeeds."""
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    _write_local(temporary, [data])
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
