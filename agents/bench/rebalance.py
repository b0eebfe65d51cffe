"""How long partitions pause when a worker of a group leaves or joins as planned."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from agents.bench.machine import machine
from agents.bench.subject import (
    KEYS,
    PARTITIONS,
    SIZE,
    STEP_NS,
    STREAM,
    TOPIC,
    make_messages,
    make_pipeline,
    preload,
)
from connectors.broker import Broker
from connectors.kafka.bench_group import stable_members
from schemas.config import Kafka
from schemas.errors import SetupError
from schemas.parse import load_pipeline

WORKERS = 3
LIMIT = 3.0
SETTLE_SECONDS = 4.0
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.2


class Pauses(msgspec.Struct, frozen=True):
    """Pauses in seconds, of every partition at every change."""

    p50: float
    p99: float
    max: float


class Rebalance(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`measure_rebalance` found.

    A pause is the longest time between two arrivals of scored events of a partition around a
    change, less ``steady``, their median in ms.
    """

    changes: int
    rate: int
    delivery: str
    leave: Pauses
    join: Pauses
    all: Pauses
    steady: float
    machine: str


class _Change(msgspec.Struct, frozen=True):
    kind: str
    begin: int
    end: int


class _Gaps(msgspec.Struct, frozen=True):
    """What :mod:`connectors.kafka.bench_gaps` prints."""

    steady: float
    gaps: list[tuple[int, int, int]]


def measure_rebalance(
    changes: int, rate: int, delivery: str, say: Callable[[str], None]
) -> Rebalance:
    """Let workers leave and join in turn while records come at a steady rate."""
    ids = list(range(KEYS)) * SIZE
    messages = make_messages(ids, time.time_ns() - len(ids) * STEP_NS)
    with Broker() as broker, tempfile.TemporaryDirectory(prefix="eddy-bench-") as folder:
        preload(Kafka(bootstrap=broker.bootstrap), messages)
        path = make_pipeline("all", broker.bootstrap, Path(folder), messages.values, delivery)
        config = load_pipeline(path)
        crew = _Crew(path, Path(folder), config.kafka, f"{config.name}.worker")
        with crew.working(WORKERS), _probe(broker.bootstrap, config.name, rate) as probe:
            say(f"{WORKERS} workers, {rate:,} records/s")
            time.sleep(SETTLE_SECONDS)
            happened = []
            for number in range(changes):
                change = crew.join() if number % 2 else crew.leave()
                say(f"{change.kind}: {(change.end - change.begin) / 1e9:.1f} s watched")
                happened.append(change)
            found = msgspec.json.decode(probe.communicate()[0], type=_Gaps)
    return Rebalance(
        changes=changes,
        rate=rate,
        delivery=delivery,
        leave=_pauses(found, [x for x in happened if x.kind == "leave"]),
        join=_pauses(found, [x for x in happened if x.kind == "join"]),
        all=_pauses(found, happened),
        steady=found.steady,
        machine=machine(),
    )


class _Crew:
    """The workers of a group."""

    def __init__(self, pipeline: Path, folder: Path, kafka: Kafka, group: str) -> None:
        self._command = [sys.executable, "-m", "agents", "run", str(pipeline), "--port", "0"]
        self._log = folder / "workers.log"
        self._kafka, self._group = kafka, group
        self._workers: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def working(self, count: int) -> Iterator[None]:
        """Start workers, and end them all in the end."""
        try:
            for _ in range(count):
                self._start()
            self._assemble()
            yield
        finally:
            for worker in self._workers:
                worker.terminate()
            for worker in self._workers:
                worker.wait()

    def leave(self) -> _Change:
        """Ask the worker that has been there longest to leave."""
        begin = time.monotonic_ns()
        worker = self._workers.pop(0)
        worker.terminate()
        worker.wait()
        return self._settled("leave", begin)

    def join(self) -> _Change:
        """Start another worker."""
        begin = time.monotonic_ns()
        self._start()
        return self._settled("join", begin)

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self._workers.append(subprocess.Popen(self._command, stdout=log, stderr=log))  # noqa: S603 - our own module

    def _settled(self, kind: str, begin: int) -> _Change:
        self._assemble()
        time.sleep(SETTLE_SECONDS)
        return _Change(kind, begin, time.monotonic_ns())

    def _assemble(self) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while stable_members(self._kafka, self._group) != len(self._workers):
            if time.monotonic() > end or any(x.poll() is not None for x in self._workers):
                tail = self._log.read_text(errors="replace")[-2000:]
                msg = f"the workers do not assemble: free some CPU and retry; their log:\n{tail}"
                raise SetupError(msg)
            time.sleep(LOOK_SECONDS)


@contextmanager
def _probe(bootstrap: str, name: str, rate: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the feeder and reader; it feeds when this is entered."""
    options: dict[str, object] = {
        "bootstrap": bootstrap,
        "topic": TOPIC,
        "read": f"{name}.{STREAM}.scored",
        "skip": KEYS,
        "rate": rate,
    }
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "connectors.kafka.bench_gaps", *given]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own module
    try:
        out: IO[bytes] | None = process.stdout
        if out is None or not out.readline():
            msg = "the windows do not fill: free some CPU and retry"
            raise SetupError(msg)
        yield process
    finally:
        process.kill()
        process.wait()


def _pauses(found: _Gaps, changes: Sequence[_Change]) -> Pauses:
    """Return quantiles of the longest gap of each partition around each change."""
    longest = [
        max(
            (
                (end - begin) / 1e9 - found.steady / 1e3
                for number, begin, end in found.gaps
                if number == partition and begin < change.end and end > change.begin
            ),
            default=0.0,
        )
        for change in changes
        for partition in range(PARTITIONS)
    ]
    p50, p99, most = np.quantile(longest, [0.5, 0.99, 1.0]).tolist() if longest else [0.0] * 3
    return Pauses(p50, p99, most)
