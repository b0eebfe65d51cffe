"""The archive: what is kept for training, as Parquet files of one offset range each.

In: tables of rows of one partition. Out: a table of the newest records asked for. A file is
named by the offsets it holds, so that a worker which archives a range again, after a crash,
overwrites the file; ranges that merely overlap are cleared of doubles when read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.base import Partition
from connectors.storage import Storage
from schemas.errors import DataError

__all__ = ["Archive"]

MANDATORY = {
    "topic": pa.string(),
    "partition": pa.int64(),
    "offset": pa.int64(),
    "time": pa.int64(),
}
POSITION = ("topic", "partition", "offset")
INDEX = "__index__"
NAME = re.compile(r"/(\d{20})-(\d{20})\.parquet$")

# How much one writer appends, as a part of the whole, before it looks at the size again. Looking
# lists the storage, which is slow and costs money on an object store.
UNCHECKED_SHARE = 0.05


class _File(NamedTuple):
    """A file and what its footer says: rows, and the range of their times in ns."""

    name: str
    rows: int
    first_ns: int
    last_ns: int


class Archive:
    """The archived records of a stream, or what else belongs to positions in it.

    Parameters
    ----------
    storage
        Where the files are.
    stream
        Name of the stream.
    folder
        Where on the storage they are.
    identity
        Columns that tell rows of one offset apart: a message can hold several records.
    max_bytes
        Size of all files, beyond which those written first are deleted. Several workers that
        append at once may together exceed it by 5 % each.
    """

    def __init__(
        self,
        storage: Storage,
        stream: str,
        *,
        folder: str = "archive",
        identity: Sequence[str] = (),
        max_bytes: int = 2 << 30,
    ) -> None:
        self._storage = storage
        self._prefix = f"{folder}/{stream}"
        self._identity = [*POSITION, *identity]
        self._max_bytes = max_bytes
        self._unchecked = max_bytes  # look at the first append

    def append(self, partition: Partition, table: pa.Table) -> None:
        """Write records of one partition as a file; an empty table is none.

        Parameters
        ----------
        partition
            Where the records come from.
        table
            Columns ``topic`` (string), ``partition``, ``offset`` and ``time`` (int64, ns since
            1970 UTC), without nulls, and any others.

        Raises
        ------
        DataError
            If a mandatory column is missing, of another type, has nulls, or names another
            partition.
        SetupError
            If the storage does not take it.
        """
        if table.num_rows == 0:
            return
        self._check(partition, table)
        first, last = pc.min_max(table["offset"]).as_py().values()
        name = f"{self._prefix}/{partition.topic}/{partition.number}/{first:020d}-{last:020d}"
        self._unchecked += self._storage.write_table(f"{name}.parquet", table)
        if self._unchecked > UNCHECKED_SHARE * self._max_bytes:
            self._prune()
            self._unchecked = 0

    def read(
        self,
        since_ns: int | None = None,
        until_ns: int | None = None,
        limit_records: int | None = None,
    ) -> pa.Table:
        """Return records, ordered by topic, partition and offset, each once.

        Parameters
        ----------
        since_ns, until_ns
            Only records with ``since_ns <= time < until_ns``.
        limit_records
            At most this many: those with the latest ``time``.

        Returns
        -------
        pa.Table
            The mandatory columns and those of any file, null where a file has them not. Without
            records only the mandatory ones.

        Raises
        ------
        DataError
            If a file is damaged, or a column has different types in different files.
        SetupError
            If the storage cannot be reached.
        """
        chosen = pa.schema(MANDATORY).empty_table()
        waiting: list[pa.Table] = []
        for file in self._newest_first(since_ns, until_ns):
            if limit_records is not None and chosen.num_rows >= limit_records:
                oldest = pc.min(chosen["time"]).as_py()
                if oldest is None or file.last_ns < oldest:
                    break
            table = self._read(file.name)
            if table is None:
                continue
            waiting.append(_between(table, since_ns, until_ns))
            if limit_records is not None:
                rows = chosen.num_rows + sum(table.num_rows for table in waiting)
                if rows >= limit_records:
                    chosen = self._merge([chosen, *waiting], limit_records)
                    waiting = []
        return self._merge([chosen, *waiting], limit_records)

    def _read(self, name: str) -> pa.Table | None:
        """Read a file; ``None`` if a worker has pruned it since it was listed."""
        try:
            return self._storage.read_table(name)
        except DataError:
            if self._is_there(name):
                raise
            return None

    def _is_there(self, name: str) -> bool:
        return name in self._storage.list(name.rpartition("/")[0])

    def _check(self, partition: Partition, table: pa.Table) -> None:
        for column, kind in MANDATORY.items():
            if column not in table.column_names:
                found, wanted = "no such column", f"a column of {kind}"
            elif table[column].type != kind or table[column].null_count:
                found = f"{table[column].type} with {table[column].null_count} nulls"
                wanted = f"{kind} without nulls"
            else:
                continue
            msg = f"{self._prefix}, column {column!r}: {found}; give {wanted}"
            raise DataError(msg)
        for column, value in (("topic", partition.topic), ("partition", partition.number)):
            if pc.any(pc.not_equal(table[column], value)).as_py():
                found = pc.unique(table[column]).to_pylist()
                msg = f"{self._prefix}, column {column!r}: {found}; give only records of {value}"
                raise DataError(msg)

    def _newest_first(self, since_ns: int | None, until_ns: int | None) -> list[_File]:
        """List the files that may hold records of the span, the one with the latest first."""
        found = [self._describe(name) for name in self._storage.list(self._prefix)]
        return sorted(
            (
                file
                for file in found
                if file is not None
                and (since_ns is None or file.last_ns >= since_ns)
                and (until_ns is None or file.first_ns < until_ns)
            ),
            key=lambda file: (-file.last_ns, file.name),
        )

    def _describe(self, name: str) -> _File | None:
        """Read a file's footer; ``None`` for a file that is none of ours, or was just pruned."""
        if NAME.search(name) is None:
            return None
        try:
            with self._storage.open(name) as file:
                metadata = pq.read_metadata(file)
        except (pa.ArrowInvalid, OSError) as error:
            msg = f"{self._storage.uri}: {name} is no whole Parquet file ({error}); delete it"
            raise DataError(msg) from error
        except DataError:
            if self._is_there(name):
                raise
            return None
        column = metadata.schema.names.index("time")
        groups = [
            metadata.row_group(group).column(column).statistics
            for group in range(metadata.num_row_groups)
        ]
        first = min(group.min for group in groups)
        return _File(name, metadata.num_rows, first, max(group.max for group in groups))

    def _merge(self, tables: list[pa.Table], limit_records: int | None) -> pa.Table:
        """Join tables, drop doubles, keep the latest, and put them in order."""
        try:
            table = pa.concat_tables(tables, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            msg = (
                f"{self._storage.uri}: files below {self._prefix} do not fit together ({error}); "
                "read only later records, or delete the older files"
            )
            raise DataError(msg) from error
        table = self._distinct(table)
        if limit_records is not None and table.num_rows > limit_records:
            latest = np.argsort(table["time"].to_numpy(), kind="stable")[-limit_records:]
            table = table.take(np.sort(latest))
        return table

    def _distinct(self, table: pa.Table) -> pa.Table:
        """Order rows by topic, partition and offset, and keep the first of equal ones."""
        if not table.num_rows:
            return table
        index = pa.array(np.arange(table.num_rows))
        names = [name for name in self._identity if name in table.column_names]
        groups = table.select(names).append_column(INDEX, index).group_by(names)
        first = groups.aggregate([(INDEX, "min")])[f"{INDEX}_min"]
        kept = table.take(first.combine_chunks().sort())
        return kept.sort_by([(name, "ascending") for name in POSITION])

    def _prune(self) -> None:
        """Delete the files written first, until the rest is within the bound."""
        files = sorted(self._storage.files(self._prefix), key=lambda file: file.modified_ns)
        excess = sum(file.size_bytes for file in files) - self._max_bytes
        for file in files[:-1]:  # the newest file stays, however small the bound
            if excess <= 0:
                return
            self._storage.delete(file.name)
            excess -= file.size_bytes


def _between(table: pa.Table, since_ns: int | None, until_ns: int | None) -> pa.Table:
    time = table["time"].to_numpy()
    keep = np.ones(len(time), bool)
    if since_ns is not None:
        keep &= time >= since_ns
    if until_ns is not None:
        keep &= time < until_ns
    return table if keep.all() else table.filter(pa.array(keep))
