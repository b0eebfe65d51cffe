"""``python -m tests.chaos``: run the schedules, and the mutations, that have no result yet."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec
from rich.console import Console

from tests.chaos.cluster import Cluster
from tests.chaos.code import fingerprint
from tests.chaos.mutated import mutated, unnoticed
from tests.chaos.report import markdown, table
from tests.chaos.run import Outcome, run
from tests.chaos.schedule import Schedule, learning, make

RUNS = 56
stopping = threading.Event()


@click.command()
@click.option("--seed", type=int, help="Run this schedule only.")
@click.option("--runs", default=RUNS, show_default=True, help="Run so many schedules, from 0.")
@click.option("--learning/--no-learning", "taught", default=True, help="Run the learning ones too.")
@click.option("--mutations/--no-mutations", default=True, help="Run the mutations too.")
@click.option("--mutation", help="Run this mutation only.")
@click.option("--again", is_flag=True, help="Run what has a result again.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".chaos"),
    show_default=True,
    help="Folder of the results; what has one there is not run again.",
)
def chaos(
    seed: int | None,
    runs: int,
    taught: bool,
    mutations: bool,
    mutation: str | None,
    again: bool,
    results: Path,
) -> None:
    """Disturb workers in many ways, and check that nothing shows of it."""
    schedules = [make(x) for x in (range(runs) if seed is None else [seed])]
    if mutation is not None:
        schedules = [x for x in mutated() if x.mutation == mutation]
    elif seed is None:
        schedules += learning() if taught else []
        schedules += mutated() if mutations else []
    results.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _stop)
    outcomes = list(_outcomes(schedules, results, again))
    Console(width=150).print(table(outcomes))
    (results / "report.md").write_text(markdown(outcomes))
    red = [x for x in outcomes if not x.green and not x.schedule.mutation]
    missed = [x for x in outcomes if x.schedule.mutation and unnoticed(x)]
    for outcome in red:
        click.echo(f"red: {outcome.schedule.name} {outcome.trouble} {outcome.verdict.by_kind}")
    for outcome in missed:
        click.echo(f"not noticed: {outcome.schedule.mutation} {outcome.trouble}")
    sys.exit(1 if red or missed else 0)


def _stop(*_: object) -> None:
    """End what was started, and leave no result of it."""
    stopping.set()
    sys.exit(1)


def _outcomes(schedules: list[Schedule], results: Path, again: bool) -> Iterable[Outcome]:
    """Yield an outcome for every schedule, from its file if there is one."""
    cluster: Cluster | None = None
    with ExitStack() as running:
        for schedule in schedules:
            file = results / f"{schedule.name}.json"
            known = None if again else _known(file, schedule)
            if known is not None:
                yield known
                continue
            if cluster is None:
                cluster = running.enter_context(Cluster())
            outcome = run(schedule, cluster, results)
            if stopping.is_set():
                sys.exit(1)  # a run that was cut short says nothing
            file.write_bytes(msgspec.json.format(msgspec.json.encode(outcome)))
            click.echo(_line(outcome))
            yield outcome
            if schedule.breaks_brokers or outcome.trouble:
                running.close()
                cluster = None


def _known(file: Path, schedule: Schedule) -> Outcome | None:
    """Return the result in a file, unless it is of another schedule of that name, or other code."""
    if not file.exists():
        return None
    outcome = msgspec.json.decode(file.read_bytes(), type=Outcome)
    same = outcome.schedule == schedule and outcome.code == fingerprint()
    return outcome if same else None


def _line(outcome: Outcome) -> str:
    verdict = outcome.verdict
    return (
        f"{outcome.schedule.name} {outcome.schedule.kind}: "
        f"{'green' if outcome.green else 'RED'} lost={verdict.lost} wrong={verdict.wrong} "
        f"again={verdict.duplicates} of {verdict.expected}, recovered {outcome.recoveries}, "
        f"crashes {outcome.crashes}, {outcome.seconds} s {outcome.trouble} {outcome.notes}"
    )


if __name__ == "__main__":
    chaos()
