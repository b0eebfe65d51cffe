"""Cells: one method on one data set with one seed, each a file that is not measured again."""

from __future__ import annotations

import multiprocessing
import resource
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import numpy as np

from agents.bench.accuracy.methods import run
from agents.bench.accuracy.tasks import Task
from agents.metrics import detection_metrics
from detectors.device import on_one_core
from schemas.errors import EddyError

GRACE = 10.0
"""Times the seconds of a fit after which a cell is given up: not every method knows a limit."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Measures of one method on one data set with one seed.

    ``peak_mib`` is by how much the process grew at most. ``failure`` says why there are no
    measures.
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
    fit_seconds: float = 0.0
    score_seconds: float = 0.0
    tested: int = 0
    peak_mib: float = 0.0
    stopped: str = ""
    failure: str = ""


def cell(
    folder: Path, data: Path, task: Task, method: str, seed: int, rows: int, seconds: float
) -> Cell:
    """Read a cell that was measured before with the same limits, or measure it.

    Parameters
    ----------
    folder, data
        Where cells are kept, and where the data sets are.
    rows, seconds
        Limits: rows to fit on and to test, and time of a fit.
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
    process = context.Process(target=_measure, args=(there, empty, task, data))
    process.start()
    there.close()
    limit = GRACE * empty.seconds
    try:
        measured: Cell | None = here.recv() if here.poll(limit) else None
    except EOFError:
        measured = msgspec.structs.replace(empty, failure="the process died, of memory perhaps")
    process.kill()
    process.join()
    late = f"not done within {limit:g} s"
    return measured or msgspec.structs.replace(empty, failure=late)


def _measure(answer: Connection, empty: Cell, task: Task, data: Path) -> None:
    on_one_core()
    table = task.read(data)
    split = task.divide(table, empty.seed, empty.rows)
    before = _memory()
    try:
        outcome = run(empty.method, table, split, empty.seed, empty.seconds)
    except (EddyError, ValueError, RuntimeError) as error:
        answer.send(msgspec.structs.replace(empty, failure=str(error)))
        return
    truth = table.anomalous[split.test].astype(np.int8)
    found = detection_metrics(truth, outcome.scores, np.zeros(len(truth), dtype=bool))
    names = ("roc_auc", "average_precision", "best_f1", "positives")
    answer.send(
        msgspec.structs.replace(
            empty,
            **{name: found[name] for name in names},
            fit_seconds=outcome.fit_seconds,
            score_seconds=outcome.score_seconds,
            tested=len(truth),
            peak_mib=_memory() - before,
            stopped=outcome.stopped,
        )
    )


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
