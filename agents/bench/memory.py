"""Memory that the windows of many keys take, as the growth of a process."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from agents.bench.machine import machine
from agents.bench.subject import NUMBERS, SIZE, STREAM, TOPIC, document, make_messages
from agents.pipeline import Pipeline
from connectors.base import Fetch, Partition
from connectors.kafka.allocator import give_back_large_arrays
from schemas.parse import parse_pipeline

FETCH = 10_000
WARM_KEYS = 10_000
ALLOWANCE = 1.5
PER_STEP = 16  # bytes of time and offset of each step


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes per key.

    ``state`` is what the arrays of the window state take; ``held`` by how much the process grew,
    all included, when its allocator has given back what it keeps for the next fetch, ``resident``
    before that; ``windows`` is ``T (4 F + 4 C + 16)``, the bare values of one window with time and
    offset of each step.
    """

    keys: int
    windows: float
    state: float
    held: float
    resident: float
    machine: str


def measure_memory(keys: int) -> Memory:
    """Fill the windows of ``keys`` keys in a process of its own; needs Linux with glibc."""
    command = [sys.executable, "-m", "agents.bench.memory", str(keys)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - our own module
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Memory)


def _measure(keys: int) -> Memory:
    give_back_large_arrays()  # as a worker with a process of its own does
    made = document("anomalies", "unused:9092", "unused")
    made["streams"][STREAM]["archive"] = False  # archived rows wait for the writer, not here
    pipeline = Pipeline(parse_pipeline(made), time.time_ns)
    _fill(pipeline, range(WARM_KEYS), partition=1)  # code and buffers of the first fetches
    before, state = resident_bytes(), pipeline.state_bytes()
    _fill(pipeline, range(keys), partition=0)
    resident = resident_bytes()
    ctypes.CDLL(None).malloc_trim(0)
    return Memory(
        keys=keys,
        windows=SIZE * (4 * len(NUMBERS) + PER_STEP),
        state=(pipeline.state_bytes() - state) / keys,
        held=(resident_bytes() - before) / keys,
        resident=(resident - before) / keys,
        machine=machine(),
    )


def _fill(pipeline: Pipeline, keys: range, partition: int) -> None:
    """Give every key a full window, fetch by fetch."""
    offset = 0
    for _ in range(SIZE):
        for first in range(0, len(keys), FETCH):
            values = make_messages(keys[first : first + FETCH]).values
            n = len(values)
            offsets = range(offset, offset + n)
            pipeline.process([_fetch(partition, offsets, values)])
            offset += n


def _fetch(partition: int, offsets: range, values: list[bytes]) -> Fetch:
    n = len(values)
    return Fetch(
        Partition(TOPIC, partition), np.array(offsets), np.zeros(n, np.int64), [None] * n, values
    )


def resident_bytes() -> int:
    """Bytes that the process holds in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    msg = "no VmRSS in /proc/self/status"
    raise OSError(msg)


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(_measure(int(sys.argv[1]))).decode() + "\n")
