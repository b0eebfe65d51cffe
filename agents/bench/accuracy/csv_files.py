"""Cells as CSV, a file for each data set: what a table is made of, to keep and to compare."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from agents.bench.accuracy.cells import Cell

__all__ = ["read_cells", "write_cells"]


def write_cells(folder: Path, cells: Iterable[Cell]) -> None:
    """Write the cells of each data set to ``folder/SUITE-TASK.csv``, numbers to six digits."""
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[Cell]] = defaultdict(list)
    for one in cells:
        tables[f"{one.suite}-{one.task}.csv"].append(one)
    for name, found in tables.items():
        text = io.StringIO()
        table = csv.DictWriter(text, Cell.__struct_fields__, lineterminator="\n")
        table.writeheader()
        for one in found:
            values = msgspec.structs.asdict(one)
            table.writerow(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
            )
        (folder / name).write_text(text.getvalue())


def read_cells(folder: Path) -> list[Cell]:
    """Read back the cells of all data sets that were written to a folder."""
    rows = [
        {name: value for name, value in row.items() if value}
        for path in sorted(folder.glob("*.csv"))
        for row in csv.DictReader(path.read_text().splitlines())
    ]
    return msgspec.convert(rows, list[Cell], strict=False)
