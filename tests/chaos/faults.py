"""The faults: what each does to a run, from its begin to its end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from kafka import KafkaProducer

from agents.train import model_output
from detectors.model import Model
from schemas.messages import ModelEvent
from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feeder
from tests.chaos.progress import Progress
from tests.chaos.schedule import WORKERS, Fault
from tests.chaos.setting import STREAM, Setting
from tests.chaos.workers import Worker, Workers

PATIENCE = 90.0
LOOK_SECONDS = 0.2

# what a worker says of a full disk; an archive holds up the checkpoints that come after it
NO_ROOM = {True: "waiting for the storage", False: "checkpoint not written"}


class Happened(msgspec.Struct, kw_only=True):
    """A fault as it came out; ``began`` is on the monotonic clock.

    ``missed`` says why it was not the fault that was meant, if so.
    """

    kind: str
    began: float
    missed: list[str] = []


@dataclass
class Stage:
    """What faults act upon.

    Attributes
    ----------
    spare
        Makes another model when one is needed.
    """

    cluster: Cluster
    setting: Setting
    workers: Workers
    feeder: Feeder
    progress: Progress
    spare: Callable[[], Model]

    def announce(self, artefact_id: str) -> None:
        """Tell the workers of a new champion."""
        event = ModelEvent(
            stream=STREAM,
            route=self.setting.route,
            stage="champion",
            artefact_id=artefact_id,
            uri=f"{self.setting.storage}/models/{STREAM}/{self.setting.route}/{artefact_id}",
            at=time.time_ns(),
        )
        output = model_output(self.setting.topics, event)
        servers = self.cluster.bootstrap.split(",")
        with KafkaProducer(bootstrap_servers=servers, acks="all") as producer:
            producer.send(output.topic, output.value, key=output.key).get(timeout=PATIENCE)


def happen(fault: Fault, stage: Stage) -> Happened:
    """Let a fault happen, and return when it is over."""
    happened = Happened(kind=fault.kind, began=time.monotonic())
    FAULTS[fault.kind](fault, stage, happened)
    return happened


def _kill(fault: Fault, stage: Stage, happened: Happened) -> None:
    """A worker is gone from one moment to the next."""
    stage.workers[fault.worker].signal(signal.SIGKILL)


def _restart(fault: Fault, stage: Stage, happened: Happened) -> None:
    """A rolling restart: one worker after the other ends in order, and has a successor."""
    for worker in stage.workers.each:
        start = worker.starts
        worker.signal(signal.SIGTERM)
        if not worker.await_end(start):
            happened.missed.append("a worker did not end on SIGTERM")
        stage.progress.await_members(WORKERS, PATIENCE)


def _zombie(fault: Fault, stage: Stage, happened: Happened) -> None:
    """A worker stands still until the group has given its partitions away, and then goes on."""
    worker = stage.workers[fault.worker]
    worker.signal(signal.SIGSTOP)
    try:
        if not stage.progress.await_members(WORKERS - 1, PATIENCE):
            happened.missed.append("the group did not miss the worker")
        stage.progress.await_moved(time.monotonic(), PATIENCE)
    finally:
        worker.signal(signal.SIGCONT)


def _broker(fault: Fault, stage: Stage, happened: Happened) -> None:
    """A broker is killed, and comes back once the workers have got over it."""
    _without(stage, fault.node, happened)


def _leader(fault: Fault, stage: Stage, happened: Happened) -> None:
    """The broker that leads an input partition is killed, and comes back."""
    node = stage.cluster.leader(stage.setting.topic, fault.partition)
    _without(stage, node, happened)


def _without(stage: Stage, node: int, happened: Happened) -> None:
    stage.cluster.kill(node)
    try:
        if not stage.progress.await_moved(time.monotonic(), PATIENCE):
            happened.missed.append("no progress with a broker less")
    finally:
        stage.cluster.restart(node)


def _stall(fault: Fault, stage: Stage, happened: Happened) -> None:
    """The network between the workers and one broker, or all, passes nothing for a while."""
    stage.cluster.proxies.stall(fault.node)
    try:
        _wait(fault.seconds)
    finally:
        stage.cluster.proxies.resume(fault.node)


def _full(fault: Fault, stage: Stage, happened: Happened) -> None:
    """The disk is full, as far as the workers can tell, while one of them is restarted.

    It lasts until a write has failed, and an archive or a checkpoint waits for room.
    """
    failed = NO_ROOM[stage.setting.config.streams[STREAM].archive]
    before = stage.workers.logged(failed)
    stage.workers.all(lambda worker: worker.limit_files(True))
    try:
        stage.workers[fault.worker].signal(signal.SIGTERM)
        _wait(fault.seconds)
        end = time.monotonic() + PATIENCE
        while stage.workers.logged(failed) == before:
            if time.monotonic() > end:
                happened.missed.append(f"no worker says {failed!r}")
                break
            _wait(LOOK_SECONDS)
    finally:
        stage.workers.all(lambda worker: worker.limit_files(False))


def _away(fault: Fault, stage: Stage, happened: Happened) -> None:
    """The storage is not there for a while, and a worker is killed."""
    with _aside(stage.setting.storage):
        stage.workers[fault.worker].signal(signal.SIGKILL)
        _wait(fault.seconds)


def _truncate(fault: Fault, stage: Stage, happened: Happened) -> None:
    """All workers die, and the newest checkpoint of every partition turns out damaged."""
    stage.workers.all(Worker.hold)
    try:
        starts = [worker.starts for worker in stage.workers.each]
        stage.workers.all(lambda worker: worker.signal(signal.SIGKILL))
        for worker, start in zip(stage.workers.each, starts, strict=True):
            worker.await_end(start)
        if not _cut_newest(stage.setting.storage):
            happened.missed.append("no checkpoint to cut")
    finally:
        stage.workers.all(Worker.release)


def _poison(fault: Fault, stage: Stage, happened: Happened) -> None:
    """A worker is killed amid a burst of bad records, which the stream holds at this point."""
    stage.workers[fault.worker].signal(signal.SIGKILL)


def _swap(fault: Fault, stage: Stage, happened: Happened) -> None:
    """A new model is announced, and a worker is killed as it hears of it."""
    model, registry = stage.spare(), stage.setting.registry
    registry.save(model)
    registry.promote(STREAM, stage.setting.route, model.model_id)
    happened.began = time.monotonic()
    stage.announce(model.model_id)
    stage.workers[fault.worker].signal(signal.SIGKILL)


def _swapped(fault: Fault, stage: Stage, happened: Happened) -> None:
    """A new model is announced, and all workers are killed soon after it has begun to speak."""
    model, registry = stage.spare(), stage.setting.registry
    registry.save(model)
    registry.promote(STREAM, stage.setting.route, model.model_id)
    stage.announce(model.model_id)
    stage.progress.await_moved(time.monotonic(), PATIENCE)
    happened.began = time.monotonic()
    stage.workers.all(lambda worker: worker.signal(signal.SIGKILL))


def _trainer(fault: Fault, stage: Stage, happened: Happened) -> None:
    """The trainer is killed; its successor answers what it left unanswered."""
    if stage.workers.trainer is None:
        happened.missed.append("no trainer to kill")
    else:
        stage.workers.trainer.signal(signal.SIGKILL)


def _corrupt(fault: Fault, stage: Stage, happened: Happened) -> None:
    """A new model is announced whose file is damaged; it is mended and announced again."""
    model, registry = stage.spare(), stage.setting.registry
    registry.save(model)
    route = stage.setting.route
    folder = stage.setting.storage / "models" / STREAM / route / model.model_id
    file = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    registry.promote(STREAM, route, model.model_id)
    happened.began = time.monotonic()
    stage.announce(model.model_id)
    stage.workers[fault.worker].signal(signal.SIGKILL)
    _wait(fault.seconds)
    file.write_bytes(whole)
    stage.announce(model.model_id)


FAULTS: dict[str, Callable[[Fault, Stage, Happened], None]] = {
    "kill": _kill,
    "restart": _restart,
    "zombie": _zombie,
    "broker": _broker,
    "leader": _leader,
    "stall": _stall,
    "full": _full,
    "away": _away,
    "truncate": _truncate,
    "poison": _poison,
    "swap": _swap,
    "swapped": _swapped,
    "trainer": _trainer,
    "corrupt": _corrupt,
}


@contextmanager
def _aside(folder: Path) -> Iterator[None]:
    """Put a file where a folder is, so that nothing can be read or written below it."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    folder.write_bytes(b"not a folder")
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


def _cut_newest(storage: Path) -> int:
    """Cut the newest checkpoint of each partition to a half; return how many there were."""
    newest: dict[Path, Path] = {}
    for file in sorted((storage / "checkpoints").rglob("*")):
        if file.is_file():
            newest[file.parent] = file  # names are ordered by offset
    for file in newest.values():
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
    return len(newest)


def _wait(seconds: float) -> None:
    """Let a fault last."""
    threading.Event().wait(seconds)


__all__ = ["FAULTS", "Happened", "Stage", "happen"]
