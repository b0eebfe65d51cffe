"""The command that measures how accurate detectors are."""

from __future__ import annotations

from pathlib import Path

import click

from agents.bench.accuracy.cells import Wish, cells
from agents.bench.accuracy.csv_files import write_cells
from agents.bench.accuracy.methods import methods_for
from agents.bench.accuracy.report import condensed, headline, report
from agents.bench.accuracy.tasks import SUITES, TASKS
from agents.cli_bench import FOLDER
from agents.options import echo_json, json_option


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the public data sets.",
)
@click.option(
    "--suite", "suites", multiple=True, type=click.Choice(SUITES), help="All, by default."
)
@click.option("--task", "sets", multiple=True, help="A data set of a suite, instead of all.")
@click.option("--detector", "names", multiple=True, help="Of Eddy, or a peer such as pyod:ecod.")
@click.option("--seeds", default=3, show_default=True, help="Repetitions.")
@click.option("--rows", default=10_000, show_default=True, help="Rows to fit on, and to test.")
@click.option("--seconds", default=20.0, show_default=True, help="Time to fit in.")
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(1), help="Measured at once."
)
@click.option(
    "--csv",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write all measures to a file for each data set in this folder.",
)
@json_option
def accuracy(
    data: Path,
    suites: tuple[str, ...],
    sets: tuple[str, ...],
    names: tuple[str, ...],
    seeds: int,
    rows: int,
    seconds: float,
    jobs: int,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Measure how well detectors rank public labelled data, beside those of pyod.

    Each result is kept in a file under .eddy/bench/accuracy and not measured again. All suites take
    about four hours of processor time for each seed.

    \b
    Example:
      eddy bench accuracy --data DATA --suite records --detector knn --detector pyod:ecod
    """  # noqa: D301
    tasks = [task for task in TASKS if task.suite in (suites or SUITES)]
    tasks = [task for task in tasks if not sets or task.name in sets]
    if not tasks:
        known = ", ".join(dict.fromkeys(task.name for task in TASKS))
        msg = f"--task {', '.join(sets)}: not in these suites; there are {known}"
        raise click.UsageError(msg)
    for task in tasks:
        task.find(data)
    wishes = [
        Wish(task, name, seed)
        for task in tasks
        for name in names or methods_for(task.suite)
        for seed in range(seeds)
    ]
    found = []
    for one in cells(FOLDER / "accuracy", data, wishes, rows, seconds, jobs):
        what = one.failure or f"{headline(one):.3f}"
        click.echo(f"{one.suite}/{one.task} {one.method} {one.seed}: {what}", err=True)
        found.append(one)
    if folder is not None:
        write_cells(folder, found)
    if as_json:
        echo_json(found)
    else:
        click.echo(f"{condensed(found)}\n\n{report(found)}")
