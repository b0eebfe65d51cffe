"""The table of all runs, a line per fault."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from rich.table import Table

from tests.chaos.run import Outcome

COLUMNS = (
    *("fault", "runs", "red", "events", "lost", "wrong"),
    *("again (at least once)", "again (exactly once)", "flips", "recovery median s", "max s"),
)


def table(outcomes: Iterable[Outcome]) -> Table:
    """Make the table: for each fault the runs that it led, or the mutation they had."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        schedule = outcome.schedule
        name = f"mutation: {schedule.mutation}" if schedule.mutation else schedule.kind
        groups.setdefault(name, []).append(outcome)
    made = Table(*COLUMNS, title="Chaos")
    for name, group in groups.items():
        made.add_row(name, *_row(group))
    made.add_section()
    made.add_row("all", *_row([x for x in outcomes if not x.schedule.mutation]))
    return made


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
