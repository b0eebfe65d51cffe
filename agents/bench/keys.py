"""Many keys in little memory: the same records with and without a limit, each in a process.

Every pass sends one record of each key, in an order of its own that is the same in every pass: so
the key that comes next is always the one that was idle longest.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import numpy as np

from agents.bench.machine import machine
from agents.bench.memory import resident_bytes
from agents.bench.subject import PARTITIONS, START_NS, STEP_NS, STREAM, TOPIC, document
from agents.bench.subject import make_messages as messages
from agents.decode import Decoder
from agents.fitting import build_history, fit_route
from agents.pipeline import Pipeline
from connectors.base import Fetch, Partition, flatten
from connectors.kafka.allocator import give_back_large_arrays
from schemas.config import Pipeline as Config
from schemas.parse import parse_pipeline

PASSES = 3
FETCH = 2_000
FIT_ON = 20_000
UNLIMITED = "1024TiB"


class KeysRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run: speed of the pipeline, and how much memory it took.

    ``state_bytes`` is the most that the pipeline said its state takes, ``process_bytes`` the most
    that the process took, after any fetch; ``before_bytes`` what it took before the first.
    """

    memory: str
    records: int
    records_per_second: float
    state_bytes: int
    before_bytes: int
    process_bytes: int
    spill_bytes: int
    evicted: int
    returned: int
    outputs: str


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The two runs; their ``outputs``, a digest of all messages in order, must be equal."""

    keys: int
    limited: KeysRun
    unlimited: KeysRun
    machine: str


def measure_keys(keys: int, memory: str) -> Keys:
    """Run both, one after the other; needs Linux."""
    limited, unlimited = (_in_a_process(keys, size) for size in (memory, UNLIMITED))
    return Keys(keys=keys, limited=limited, unlimited=unlimited, machine=machine())


def _in_a_process(keys: int, memory: str) -> KeysRun:
    command = [sys.executable, "-m", "agents.bench.keys", str(keys), memory]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - our own module
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=KeysRun)


def _measure(keys: int, memory: str) -> KeysRun:
    give_back_large_arrays()  # as a worker with a process of its own does
    made = document("all", "unused:9092", "unused")
    made["state"] = {"memory": memory}
    made["streams"][STREAM] |= {"archive": False, "window": {"kind": "sliding", "min_size": 1}}
    pipeline = _fitted(parse_pipeline(made))
    ctypes.CDLL(None).malloc_trim(0)  # what fitting has left
    digest, seconds = hashlib.blake2b(digest_size=16), 0.0
    before = resident_bytes()
    state = process = 0
    for fetches in _passes(keys):
        began = time.perf_counter()
        result = pipeline.process(fetches)
        seconds += time.perf_counter() - began
        state, process = max(state, pipeline.state_bytes()), max(process, resident_bytes())
        for output in flatten(result.outputs):
            digest.update(output.value)
    counts = pipeline.keys()
    return KeysRun(
        memory=memory,
        records=PASSES * keys,
        records_per_second=PASSES * keys / seconds,
        state_bytes=state,
        before_bytes=before,
        process_bytes=process,
        spill_bytes=counts.spill_bytes,
        evicted=counts.evicted,
        returned=counts.returned,
        outputs=digest.hexdigest(),
    )


def _fitted(config: Config) -> Pipeline:
    stream, values = config.streams[STREAM], messages([i % 1_000 for i in range(FIT_ON)]).values
    records = Decoder(STREAM, stream, config.limits)(_fetch(0, 0, values)).records
    route = stream.routes[0]
    pipeline = Pipeline(config, lambda: 0)
    model = fit_route(STREAM, stream, route, build_history(stream, [records]))
    pipeline.apply(STREAM, route.label, model)
    return pipeline


def _passes(keys: int) -> Iterator[list[Fetch]]:
    """Yield a fetch of each partition at a time; a key is always in the same partition."""
    order = np.random.default_rng(0).permutation(keys)
    offset, now = [0] * PARTITIONS, START_NS
    for _ in range(PASSES):
        for first in range(0, keys, FETCH * PARTITIONS):
            ids = order[first : first + FETCH * PARTITIONS]
            values = messages(ids.tolist(), now).values
            now += STEP_NS * len(values)
            fetches = []
            for number in range(PARTITIONS):
                mine = [values[i] for i in np.flatnonzero(ids % PARTITIONS == number).tolist()]
                fetches.append(_fetch(number, offset[number], mine))
                offset[number] += len(mine)
            yield fetches


def _fetch(partition: int, first: int, values: list[bytes]) -> Fetch:
    n = len(values)
    where = Partition(TOPIC, partition)
    return Fetch(
        where, np.arange(first, first + n), np.zeros(n, np.int64), [None] * n, list(values)
    )


if __name__ == "__main__":
    found = _measure(int(sys.argv[1]), sys.argv[2])
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
