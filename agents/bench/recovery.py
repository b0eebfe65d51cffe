"""Time until a large partition is scored again, and what its checkpoints hold up meanwhile."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from agents.bench.checkpoint import HeldUp
from agents.bench.machine import machine
from agents.bench.subject import document, make_messages, preload, set_up
from connectors.broker import Broker
from schemas.config import Kafka

SIZE = 32
NUMBERS = "abcdefgh"
FIT_KEYS = 2_000
FRESH = 10_000
RECOVERY_LIMIT = 10.0
DELAY_LIMIT = 100.0


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`measure_recovery` found.

    ``restore`` and ``first`` are medians in seconds, from the assignment until the state is
    restored, and until the first record beyond the commit is scored; ``longest`` is the longest
    of the latter. ``behind`` records lie between the checkpoint and the commit, and are processed
    again. ``checkpoint`` is what checkpoints hold up, in a worker that does nothing else.
    """

    keys: int
    behind: int
    restore: float
    first: float
    longest: float
    checkpoint: HeldUp
    repeats: int
    machine: str


def measure_recovery(
    keys: int, behind: int, repeats: int, seconds: float, say: Callable[[str], None]
) -> Recovery:
    """Checkpoint a partition whose windows are full, and restore it some times."""
    with Broker() as broker, tempfile.TemporaryDirectory(prefix="eddy-bench-") as folder:
        made = document(
            "all",
            broker.bootstrap,
            str(Path(folder) / "storage"),
            size=SIZE,
            numbers=NUMBERS,
            partitions=1,
        )
        history = make_messages(list(range(FIT_KEYS)) * 2 * SIZE, numbers=NUMBERS)
        path = set_up(made, Path(folder) / "pipeline.yaml", history.values)
        ids = [number % keys for number in range(behind + FRESH)]
        preload(Kafka(bootstrap=broker.bootstrap), make_messages(ids, numbers=NUMBERS), 1)
        say(f"windows of {keys:,} keys fill")
        found = _run("checkpoint", path, keys, seconds)
        held = msgspec.json.decode(found, type=HeldUp)
        times = []
        for _ in range(repeats):
            times.append(msgspec.json.decode(_run("restore", path, behind), type=dict[str, float]))
            say(f"restored in {times[-1]['restore']:.2f} s, scoring in {times[-1]['first']:.2f} s")
    return Recovery(
        keys=keys,
        behind=behind,
        restore=statistics.median(x["restore"] for x in times),
        first=statistics.median(x["first"] for x in times),
        longest=max(x["first"] for x in times),
        checkpoint=held,
        repeats=repeats,
        machine=machine(),
    )


def _run(part: str, *arguments: object) -> bytes:
    command = [sys.executable, "-m", f"agents.bench.{part}", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603 - our own modules
    return done.stdout.splitlines()[-1]
