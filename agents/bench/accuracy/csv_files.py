"""Cells as CSV, a file for each suite: what a table is made of, to keep and to compare."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from agents.bench.accuracy.cells import Cell

__all__ = ["read_cells", "write_cells"]


def write_cells(folder: Path, cells: Mapping[str, Iterable[Cell]]) -> None:
    """Write the cells of each suite to ``folder/SUITE.csv``, numbers to six digits."""
    folder.mkdir(parents=True, exist_ok=True)
    for suite, found in cells.items():
        text = io.StringIO()
        table = csv.DictWriter(text, Cell.__struct_fields__, lineterminator="\n")
        table.writeheader()
        for one in found:
            values = msgspec.structs.asdict(one)
            table.writerow(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
            )
        (folder / f"{suite}.csv").write_text(text.getvalue())


def read_cells(folder: Path) -> list[Cell]:
    """Read back the cells of all suites that were written to a folder."""
    rows = [
        {name: value for name, value in row.items() if value}
        for path in sorted(folder.glob("*.csv"))
        for row in csv.DictReader(path.read_text().splitlines())
    ]
    return msgspec.convert(rows, list[Cell], strict=False)
