"""Cells: one method on one data set with one seed, each a file that is not measured again.

Times are those of the processor, and so are limits, so that other work on the machine changes
neither a time nor what a method reaches within its limit.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from time import process_time, sleep
from typing import NamedTuple

import msgspec
import numpy as np

from agents.bench.accuracy.measures import measure
from agents.bench.accuracy.methods import run
from agents.bench.accuracy.tasks import Task
from detectors.device import on_one_core
from schemas.errors import EddyError

LEAST_SECONDS = 1.0
"""Time to fit in of a case whose task has many."""

GRACE = 60.0
"""Times the seconds of a fit after which a cell is given up: not every method knows a limit."""

LATE = 124
"""Exit code of a process that gave up."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Measures of one method on one data set with one seed, means over its cases.

    ``vus_pr`` and ``event_f1`` are there for series only, and ``delay_windows`` where an event was
    noticed. Times and ``tested`` windows are sums. ``peak_mib`` is by how much the process grew at
    most. ``failure`` says why there are no measures.
    """

    suite: str
    task: str
    method: str
    seed: int
    rows: int
    seconds: float
    roc_auc: float = 0.0
    average_precision: float = 0.0
    best_f1: float = 0.0
    positives: float = 0.0
    vus_pr: float | None = None
    event_f1: float | None = None
    delay_windows: float | None = None
    fit_seconds: float = 0.0
    score_seconds: float = 0.0
    tested: int = 0
    peak_mib: float = 0.0
    stopped: str = ""
    failure: str = ""


class Wish(NamedTuple):
    """What is to be measured: a data set, a method, a seed."""

    task: Task
    method: str
    seed: int


def cells(
    folder: Path, data: Path, wishes: Sequence[Wish], rows: int, seconds: float, jobs: int
) -> Iterator[Cell]:
    """Yield a :func:`cell` for each wish, in their order; up to ``jobs`` are measured at once."""
    calls = [(folder, data, *wish, rows, seconds) for wish in wishes]
    if jobs == 1:
        yield from itertools.starmap(cell, calls)
        return
    # not threads: they would take the exit codes of each other's processes
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("forkserver")) as pool:
        yield from pool.map(cell, *zip(*calls, strict=True))


def cell(
    folder: Path, data: Path, task: Task, method: str, seed: int, rows: int, seconds: float
) -> Cell:
    """Read a cell that was measured before with the same limits, or measure it.

    Parameters
    ----------
    folder, data
        Where cells are kept, and where the data sets are.
    rows, seconds
        Limits: rows to fit on and to test (series are tested whole), and time to fit in, which the
        cases of a task share.
    """
    name = f"{method.replace(':', '-')}-{seed}.json"
    path = folder / task.suite / task.name / name
    if path.is_file():
        found = msgspec.json.decode(path.read_bytes(), type=Cell)
        if (found.rows, found.seconds) == (rows, seconds) and not found.failure:
            return found
    empty = Cell(
        suite=task.suite, task=task.name, method=method, seed=seed, rows=rows, seconds=seconds
    )
    found = _apart(empty, task, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    return found


def _apart(empty: Cell, task: Task, data: Path) -> Cell:
    """Measure in a process of its own, whose memory and time are the method's alone."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    here, there = context.Pipe(duplex=False)
    limit = GRACE * empty.seconds
    process = context.Process(target=_measure, args=(there, limit, empty, task, data))
    process.start()
    there.close()
    try:
        measured: Cell | None = here.recv()
    except EOFError:
        measured = None
    process.join()
    late = process.exitcode == LATE
    failure = f"not done within {limit:g} s" if late else "the process died, of memory perhaps"
    return measured or msgspec.structs.replace(empty, failure=failure)


def _give_up(limit: float) -> None:
    # not by a limit of the system: with one its clock of the process ticks too coarsely
    while (left := limit - process_time()) > 0:
        sleep(left)
    os._exit(LATE)


def _measure(answer: Connection, limit: float, empty: Cell, task: Task, data: Path) -> None:
    on_one_core()
    Thread(target=_give_up, args=(limit,), daemon=True).start()
    try:
        answer.send(_means(empty, task, data))
    except (EddyError, ValueError, RuntimeError) as error:
        answer.send(msgspec.structs.replace(empty, failure=str(error)))


def _means(empty: Cell, task: Task, data: Path) -> Cell:
    measures: dict[str, list[float]] = defaultdict(list)
    fit_seconds = score_seconds = peak = 0.0
    tested, stopped = 0, set()
    cases = task.cases(data, empty.seed, empty.rows)
    seconds = max(empty.seconds / len(cases), min(empty.seconds, LEAST_SECONDS))
    for make in cases:
        case = make()
        before = _memory()
        outcome = run(empty.method, case, empty.seed, seconds)
        peak = max(peak, _memory() - before)
        for name, value in measure(case, outcome.scores).items():
            measures[name].append(value)
        fit_seconds += outcome.fit_seconds
        score_seconds += outcome.score_seconds
        tested += len(case.truth)
        stopped.add(outcome.stopped)
    return msgspec.structs.replace(
        empty,
        **{name: float(np.mean(values)) for name, values in measures.items()},
        fit_seconds=fit_seconds,
        score_seconds=score_seconds,
        tested=tested,
        peak_mib=peak,
        stopped=", ".join(sorted(stopped)),
    )


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
