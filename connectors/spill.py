"""Spill: bytes by key on the local disk, for what has no room in memory.

It is never the truth after a crash: a process that starts finds nothing, and begins with what a
checkpoint holds. RocksDB keeps it in files that never change once they are written, so that a copy
costs hard links and whoever keeps copies elsewhere has to move new files only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from connectors.segments import Segment
from schemas.errors import SetupError

__all__ = ["Spill", "SpillCopy", "SpillSpace"]

BUFFERS = 2  # for what was put: one is filled while the other is written out
BUFFER = (2**16, 2**21)  # bytes of one, at least and at most
CACHE = 16 * 2**20  # of the process, for blocks, indices and filters
FILE = 16 * 2**20
MANIFEST = 2**18  # bytes after which RocksDB begins its list of files anew; it goes into every copy
IMMUTABLE = ".sst"


class SpillSpace:
    """A directory of one process, made when it is first needed and removed when it ends.

    Parameters
    ----------
    directory
        Where to make it; by default among the temporary files of the system. Processes may share
        one: each holds a lock on its own, by which what a crashed one left is known and removed.
    """

    def __init__(self, directory: str | None) -> None:
        shared = f"eddy-spill-{os.getuid()}"
        self._parent = Path(directory or tempfile.gettempdir()) / shared
        self._own: Path | None = None
        self._count = 0
        self.cache = Cache(CACHE)

    def sweep(self) -> None:
        """Remove what processes that are no more have left."""
        if self._parent.is_dir():
            with self._usable(), self._alone():
                self._sweep()

    def new(self) -> Path:
        """Return a name in the directory that nothing has yet.

        Raises
        ------
        SetupError
            If the directory cannot be made.
        """
        if self._own is None:
            with self._usable():
                self._parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if self._parent.stat().st_uid != os.getuid():
                    msg = "it belongs to another user"
                    raise PermissionError(msg)
                with self._alone():
                    self._sweep()
                    self._own = Path(tempfile.mkdtemp(prefix="process-", dir=self._parent))
                    lock = _lock(self._own, wait=False)
            weakref.finalize(self, _remove, self._own, lock)
        self._count += 1
        return self._own / str(self._count)

    def _sweep(self) -> None:
        for other in self._parent.glob("process-*"):
            # A process that ends takes its own away, even while this one looks.
            with suppress(FileNotFoundError):
                lock = _lock(other, wait=False)
                if lock is not None:
                    _remove(other, lock)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from sweeping what has no lock yet."""
        lock = _lock(self._parent, wait=True)
        try:
            yield
        finally:
            if lock is not None:
                os.close(lock)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            msg = (
                f"state.spill: cannot use {self._parent} ({error}); name a directory on a local "
                "disk that this process may write to"
            )
            raise SetupError(msg) from error


class SpillCopy:
    """A spill as it was at some moment: files that nobody changes, removed with this object.

    Parameters
    ----------
    space
        Where to make it; at first there are no files.
    stored
        See below.

    Attributes
    ----------
    folder
        The files.
    stored
        Which of them are on the storage already, and as what.
    """

    def __init__(self, space: SpillSpace, stored: dict[str, Segment]) -> None:
        self.folder, self.stored = space.new(), stored
        self._space = space  # which goes with all that is in it, so not before this
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    @property
    def immutable(self) -> list[Path]:
        """Files that stay as they are as long as the spill has them."""
        return sorted(self.folder.glob(f"*{IMMUTABLE}"))

    @property
    def others(self) -> list[Path]:
        """Small files that only this copy has in this way."""
        every = sorted(self.folder.iterdir())
        return [path for path in every if path.suffix not in (IMMUTABLE, ".log")]

    def add(self, name: str, data: bytes) -> None:
        """Put a file into it.

        Raises
        ------
        SetupError
            If the disk does not take it.
        """
        with _working(self.folder):
            self.folder.mkdir(exist_ok=True)
            (self.folder / name).write_bytes(data)


class Spill:
    """Bytes by key.

    Parameters
    ----------
    space
        Where to keep them.
    memory
        Bytes of memory for what is to be written out, its share of the process's cache left out;
        see :meth:`memory_of`.
    copy
        What to begin with; it stays as it is.

    Raises
    ------
    SetupError
        From every method, if the disk does not take or give it.
    """

    def __init__(self, space: SpillSpace, memory: int, copy: SpillCopy | None = None) -> None:
        self.memory = memory
        self._space, self._folder = space, space.new()
        self._stored: dict[str, Segment] = {}
        if copy is not None:
            with _working(self._folder):
                shutil.copytree(copy.folder, self._folder, copy_function=_link)
            self._stored |= copy.stored
        with _working(self._folder):
            self._db = Rdict(str(self._folder), _options(space.cache, memory))
        self._write = WriteOptions()
        # a property, whatever the stub says
        self._write.disable_wal = True  # type: ignore[method-assign,assignment]

    @staticmethod
    def memory_of(budget: int) -> int:
        """Return how much of a budget a spill should have as its memory."""
        least, most = BUFFER
        return BUFFERS * min(max(budget // 32, least), most)

    @property
    def nbytes(self) -> int:
        """Bytes on the disk, those that were replaced but not yet removed included."""
        sizes = map(self._db.property_int_value, _SIZES)
        return sum(size for size in sizes if size is not None)

    def put(self, keys: Sequence[bytes], values: Iterable[bytes]) -> None:
        """Keep a value for each key, whatever it had before."""
        batch = WriteBatch(raw_mode=True)
        for key, value in zip(keys, values, strict=True):
            batch.put(key, value)
        with _working(self._folder):
            self._db.write(batch, self._write)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys, ``None`` where there is none."""
        with _working(self._folder):
            return list(self._db[list(keys)] or [])

    def copy(self) -> SpillCopy:
        """Copy what there is now; costs what was put since the last copy."""
        copy = SpillCopy(self._space, self._stored)
        with _working(self._folder):
            Checkpoint(self._db).create_checkpoint(str(copy.folder))
        for gone in self._stored.keys() - {path.name for path in copy.immutable}:
            del self._stored[gone]
        return copy

    def close(self) -> None:
        """Remove it, even from a disk that no longer works."""
        with suppress(Exception):  # closing writes out what is in memory
            self._db.close()
        shutil.rmtree(self._folder, ignore_errors=True)


_SIZES = ("rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables")


@contextmanager
def _working(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # RocksDB's errors have no class of their own
        msg = (
            f"state.spill: {folder} does not work ({error}); see whether the disk is full, name "
            "another directory, or raise state.memory"
        )
        raise SetupError(msg) from error


def _options(cache: Cache, memory: int) -> Options:
    options = Options(raw_mode=True)
    options.set_write_buffer_size(memory // BUFFERS)
    options.set_max_write_buffer_number(BUFFERS)
    options.set_target_file_size_base(FILE)
    options.set_max_manifest_file_size(MANIFEST)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(1)
    options.set_compression_type(DBCompressionType.lz4())
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_size(8 * 1024)
    table.set_block_cache(cache)
    table.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(table)
    return options


def _link(source: str, target: str) -> None:
    """Link a file that never changes, copy any other."""
    if source.endswith(IMMUTABLE):
        try:
            os.link(source, target)
        except OSError:
            pass  # another file system
        else:
            return
    shutil.copy2(source, target)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Lock a directory until the descriptor is closed; ``None`` if another process has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)
