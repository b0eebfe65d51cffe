"""What checkpoints of a large partition hold up.

``python -m agents.bench.checkpoint PIPELINE KEYS SECONDS``

Fills the windows of all keys, measures what a checkpoint holds up, writes one to the pipeline's
storage as of offset 0 of the topic's only partition, and prints one line of JSON.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
import numpy as np

from agents.bench.subject import STREAM, TOPIC, make_messages
from agents.checkpointer import Checkpointer
from agents.pipeline import Pipeline
from agents.registry import Registry
from agents.room import Room
from agents.serve import PipelineHandler
from agents.snapshot import State, pack
from connectors.base import Fetch, Partition
from connectors.kafka.admin import identify
from connectors.kafka.allocator import give_back_large_arrays
from connectors.kafka.collector import collect_rarely
from connectors.spill import SpillSpace
from connectors.storage import Storage
from detectors.model import Model
from schemas.config import Duration
from schemas.config import Pipeline as Config
from schemas.parse import load_pipeline

PLACE = Partition(TOPIC, 0)
FILL = 10_000
SNAPSHOTS = 20
VARIETY = 20
TURNS = 3


class HeldUp(msgspec.Struct, frozen=True, kw_only=True):
    """What checkpoints hold up, in ms.

    ``snapshot`` is for how long copying the state keeps a batch waiting: median and longest of
    some copies. ``without`` and ``during`` are median, p99 and longest time of a batch without
    checkpoints and with one after the other being copied, packed and written, in turns; ``delay``
    by how much the longest batch of the latter exceeds the longest of the former, which tells what
    else holds up a batch on this machine. ``mib`` is the size of a packed checkpoint.
    """

    snapshot: tuple[float, float]
    without: tuple[float, float, float]
    during: tuple[float, float, float]
    delay: float
    mib: float


def main(path: str, keys: int, seconds: float) -> None:
    """Fill, measure, write and print."""
    collect_rarely()  # as a worker with a process of its own does
    give_back_large_arrays()
    config = load_pipeline(path)
    registry = Registry(Storage(config.storage))
    route = config.streams[STREAM].routes[0].label
    champion = registry.champion(STREAM, route)
    model = registry.load(STREAM, route, str(champion))
    pipeline = Pipeline(config, time.time_ns)
    pipeline.apply(STREAM, route, model)
    for fetch in _full_windows(config, keys):
        pipeline.process([fetch])
    copies = [_timed(pipeline) for _ in range(SNAPSHOTS)]
    state = pipeline.snapshot(PLACE)
    _write(config, state)
    size = sum(map(len, pack(state))) / 2**20
    del pipeline
    fetches = list(_batches(config, keys))
    without, during = list[float](), list[float]()
    for _ in range(TURNS):
        for times, checkpoints in ((without, False), (during, True)):
            times += _batch_times(
                config, state, model, fetches, seconds / TURNS, checkpoints=checkpoints
            )
    found = HeldUp(
        snapshot=(float(np.median(copies)), max(copies)),
        without=_quantiles(without),
        during=_quantiles(during),
        delay=max(during) - max(without),
        mib=size,
    )
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


def _full_windows(config: Config, keys: int) -> Iterator[Fetch]:
    """Yield as many records of every key as its window holds."""
    stream = config.streams[STREAM]
    steps, offset = stream.window.size, 0  # type: ignore[union-attr]
    for step in range(steps):
        for first in range(0, keys, FILL):
            ids = range(first, min(first + FILL, keys))
            yield _fetch(config, ids, offset, seed=step * keys + first)
            offset += len(ids)


def _batches(config: Config, keys: int) -> Iterator[Fetch]:
    """Yield batches of random keys."""
    for number in range(VARIETY):
        rng = np.random.default_rng(number)
        ids = rng.integers(0, keys, config.scoring.batch).tolist()
        yield _fetch(config, ids, number * len(ids), seed=number)


def _fetch(config: Config, ids: range | list[int], offset: int, seed: int) -> Fetch:
    numbers = "".join(config.streams[STREAM].fields)
    values = make_messages(ids, numbers=numbers, seed=seed).values
    n = len(values)
    offsets = np.arange(offset, offset + n)
    return Fetch(PLACE, offsets, np.zeros(n, np.int64), [None] * n, values)


def _write(config: Config, state: State) -> None:
    """Write the checkpoint that others shall begin with."""
    identity = identify(config.kafka, [TOPIC])
    with ThreadPoolExecutor(1) as writer:
        storage, space = Storage(config.storage), SpillSpace(config.state.spill)
        checkpointer = Checkpointer(storage, config.checkpoints, writer, space)
        places = {PLACE: identity.topic_ids[TOPIC]}
        checkpointer.begin(identity.cluster_id, places, generation=0)
        checkpointer.write(PLACE, 0, state)


def _batch_times(
    config: Config,
    state: State,
    model: Model,
    fetches: list[Fetch],
    seconds: float,
    *,
    checkpoints: bool,
) -> list[float]:
    """Time the batches of a worker's handler, each of which is committed at once."""
    often = msgspec.structs.replace(config.checkpoints, every=Duration(1))
    config = msgspec.structs.replace(config, checkpoints=often)
    ask = partial(identify, config.kafka) if checkpoints else None
    times: list[float] = []
    with tempfile.TemporaryDirectory(prefix="eddy-bench-") as folder:
        storage = Storage(folder)
        handler = PipelineHandler(config, storage, identify=ask)
        handler.assigned({PLACE: 0}, 1)
        handler.pipeline.restore(PLACE, state, {model.description.layout.route: model})
        end, offset = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            given = fetches[len(times) % len(fetches)]
            n = len(given)
            offsets = np.arange(offset, offset + n)
            fetch = Fetch(PLACE, offsets, given.timestamps, given.keys, given.values)
            offset += n
            began = time.perf_counter()
            batch = handler.process([fetch])
            times.append(1000 * (time.perf_counter() - began))
            handler.committed(batch.positions)
        handler.stop()
    return times


def _timed(pipeline: Pipeline) -> float:
    room = Room(pipeline.snapshot_bytes(PLACE))
    began = time.perf_counter()
    pipeline.snapshot(PLACE, room)
    return 1000 * (time.perf_counter() - began)


def _quantiles(times: list[float]) -> tuple[float, float, float]:
    return float(np.median(times)), float(np.quantile(times, 0.99)), max(times)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
