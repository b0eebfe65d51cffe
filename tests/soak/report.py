"""The table of a soak, a line per part."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from rich.table import Table

from tests.soak.plan import SLOPE_PERCENT, Found

COLUMNS = (
    *("part", "delivery", "records", "keys", "kills", "events", "lost", "wrong", "again", "flips"),
    *("recovery median s", "max s", "MiB at 25 %", "at the end", "growth", "high water"),
    *("records/s", ""),
)


def table(results: Iterable[Found]) -> Table:
    """Make the table."""
    made = Table(*COLUMNS, title=f"Soak; memory may grow by {SLOPE_PERCENT:g} %")
    for found in results:
        made.add_row(*_row(found))
    return made


def _row(found: Found) -> list[str]:
    plan, verdict, memory = found.plan, found.verdict, found.resident
    times = [seconds for _, seconds in found.recoveries if seconds is not None]
    sizes = ["-"] * 4
    if memory is not None:
        sizes = [f"{x:,.0f}" for x in (memory.at_quarter, memory.at_end, memory.high_water)]
        sizes.insert(2, f"{memory.growth_percent:+.1f} %")
    return [
        plan.part,
        plan.delivery,
        f"{plan.records:,}",
        f"{plan.keys:,}",
        str(len(found.recoveries)),
        f"{verdict.expected:,}",
        str(verdict.lost),
        str(verdict.wrong),
        str(verdict.duplicates),
        str(verdict.flips),
        f"{median(times):.1f}" if times else "-",
        f"{max(times):.1f}" if times else "-",
        *sizes,
        f"{found.records_per_second:,.0f}",
        "green" if found.green else "RED",
    ]
