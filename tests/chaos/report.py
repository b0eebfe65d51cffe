"""The table of all runs, a line per fault."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.table import Table

from tests.chaos.run import Outcome

COLUMNS = (
    *("fault", "runs", "red", "events", "lost", "wrong"),
    *("again (at least once)", "again (exactly once)", "flips", "recovery median s", "max s"),
)


def table(outcomes: Sequence[Outcome]) -> Table:
    """Make the table to look at."""
    made = Table(*COLUMNS, title="Chaos")
    for row in _rows(outcomes):
        made.add_row(*row)
    return made


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Make the table to keep."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *_rows(outcomes)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """For each fault the runs that it led, or the mutation they had; and all without mutation."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        schedule = outcome.schedule
        name = f"mutation: {schedule.mutation}" if schedule.mutation else schedule.kind
        groups.setdefault(name, []).append(outcome)
    rows = [(name, *_row(group)) for name, group in groups.items()]
    return [*rows, ("all", *_row([x for x in outcomes if not x.schedule.mutation]))]


def _row(group: list[Outcome]) -> list[str]:
    again = {
        delivery: sum(x.verdict.duplicates for x in group if x.schedule.delivery == delivery)
        for delivery in ("at_least_once", "exactly_once")
    }
    met = {x.schedule.delivery for x in group}
    times = [seconds for x in group for _, seconds in x.recoveries if seconds is not None]
    never = sum(seconds is None for x in group for _, seconds in x.recoveries)
    worst = f"{max(times):.1f}" if times else "-"
    return [
        str(len(group)),
        str(sum(not x.green for x in group)),
        f"{sum(x.verdict.expected for x in group):,}",
        str(sum(x.verdict.lost for x in group)),
        str(sum(x.verdict.wrong for x in group)),
        *(str(count) if delivery in met else "-" for delivery, count in again.items()),
        str(sum(x.verdict.flips for x in group)),
        f"{median(times):.1f}" if times else "-",
        f"{worst}, {never} never" if never else worst,
    ]
