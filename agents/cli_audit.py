"""``eddy audit``: whether every record is accounted for."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.table import Table

from agents.audit import Audit, Finding, Reconciled, audit
from agents.cli_history import progress
from agents.options import echo_json, json_option, pipeline_argument
from schemas.config import Pipeline as Config


@click.command(name="audit")
@pipeline_argument
@json_option
def audit_command(config: Config, as_json: bool) -> None:
    """Count what the topics hold, and reconcile it with the accounts.

    Reads the input, dead letters, scored events, incidents and accounts with a client of its own,
    decodes the records once more, and compares: records in = windowed + late + duplicate + dead
    letter + filtered; each dead letter and each event with its record. May run beside workers.
    Ends with 0 if everything balances and with 1 if not.

    \b
    Example:
      eddy audit examples/transactions.yaml
    """  # noqa: D301 (click keeps the lines after a real backspace as they are)
    with progress() as bar:
        task = bar.add_task("reading", total=None)
        found = audit(config, lambda records: bar.advance(task, records))
    if as_json:
        echo_json(found)
    else:
        _show(found)
    sys.exit(0 if found.balanced else 1)


def _show(found: Audit) -> None:
    """Print a row for each partition, and a line for each finding."""
    console = Console()
    table = Table(title="In the log and on the topics, beside the accounts")
    names = ("windowed", "late", "duplicate", "dead-letter", "filtered")
    for name in ("partition", "in the log", "account", *names, "events", ""):
        table.add_column(name, justify="left" if name == "partition" else "right")
    for row in found.partitions:
        table.add_row(*_cells(row))
    console.print(table)
    for problem in found.problems:
        click.echo(f"NOT EQUAL  {_where(problem)}: {problem.detail} [{problem.check}]")
    for note in found.notes:
        click.echo(f"note  {_where(note)}: {note.detail}")
    click.echo("everything balances" if found.balanced else f"{len(found.problems)} discrepancies")


def _cells(row: Reconciled) -> list[str]:
    account = row.account
    fates = [] if account is None else [account.windowed, account.late, account.duplicate]
    fates += [] if account is None else [account.dead_letter, account.filtered]
    counts = [account.records_in, *fates] if account else [None] * 6
    return [
        f"{row.stream} {row.partition}",
        f"{row.records:,}",
        *("-" if count is None else f"{count:,}" for count in counts),
        f"{row.events:,}",
        "equal" if row.balanced else "NOT EQUAL",
    ]


def _where(finding: Finding) -> str:
    place = "" if finding.partition is None else f" {finding.partition}"
    return f"{finding.stream}{place}" or "all"
