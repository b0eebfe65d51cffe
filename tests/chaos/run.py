"""One schedule from the first record to the verdict."""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
import traceback
import uuid
from pathlib import Path

import msgspec

from agents.topics import pipeline_topics
from detectors.model import Model
from detectors.split import FULL, PARTIAL
from schemas.messages import ScoredEvent
from tests.chaos.cluster import Cluster
from tests.chaos.code import fingerprint
from tests.chaos.expected import expect
from tests.chaos.faults import Happened, Stage, happen
from tests.chaos.feed import Feeder
from tests.chaos.law import Ranks, Verdict, judge
from tests.chaos.progress import Progress
from tests.chaos.published import Published, read_inputs, read_outputs
from tests.chaos.records import stream
from tests.chaos.schedule import WORKERS, Schedule
from tests.chaos.setting import STREAM, Setting, prepare, second_model
from tests.chaos.workers import Workers

ASSEMBLE_SECONDS = 90.0
RECOVER_SECONDS = 90.0
CATCH_UP_SECONDS = 180.0
FEED_SECONDS = 300.0
HELD_BACK = 0.2
ENOUGH = 200


class Outcome(msgspec.Struct, kw_only=True):
    """How a run went.

    ``recoveries`` holds for each fault its kind and the seconds until every partition had made
    progress again, or None where that did not happen. ``trouble`` is what kept the run from being
    judged, from coming to its end, or a fault from being one; ``notes`` tell more of it. ``code``
    is the fingerprint of the code that ran.
    """

    schedule: Schedule
    verdict: Verdict
    recoveries: list[tuple[str, float | None]] = []
    crashes: list[int] = []
    notes: list[str] = []
    trouble: str = ""
    seconds: float = 0.0
    code: str = ""

    @property
    def green(self) -> bool:
        """Whether the law held, and the run came to its end."""
        return self.verdict.holds and not self.trouble


def run(schedule: Schedule, cluster: Cluster, results: Path) -> Outcome:
    """Run a schedule; logs and files of a run that is not green are kept in ``results``."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="eddy-chaos-"))
    outcome = Outcome(schedule=schedule, verdict=Verdict(), code=fingerprint())
    name = f"{schedule.name}-{uuid.uuid4().hex[:6]}"
    try:
        setting = prepare(schedule, name, cluster.bootstrap, cluster.workers_bootstrap, folder)
        _perform(schedule, cluster, setting, folder, outcome)
        cluster.delete(list(pipeline_topics(setting.config)))
    except Exception as error:
        outcome.trouble = f"{outcome.trouble} the run failed: {error!r}".lstrip()
        outcome.notes += traceback.format_exc().splitlines()
    finally:
        outcome.seconds = round(time.monotonic() - began, 1)
        if not outcome.green:
            _keep(folder, results / schedule.name)
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _perform(
    schedule: Schedule, cluster: Cluster, setting: Setting, folder: Path, outcome: Outcome
) -> None:
    """Let it happen, and judge it."""
    spare = functools.lru_cache(maxsize=1)(lambda: second_model(setting, schedule.seed))
    if any(fault.kind in {"swap", "swapped", "corrupt"} for fault in schedule.faults):
        spare()  # fitting takes time that the records do not wait for
    first = setting.registry.champion(STREAM, setting.route)
    taught = schedule.update_every is not None
    workers = Workers(WORKERS, setting.file, folder, schedule.mutation, taught=taught)
    records = list(stream(schedule))
    feeder = Feeder(cluster.bootstrap, setting.topic, records, schedule.pace)
    with Progress(cluster.bootstrap, setting.group, setting.topic, feeder.counts) as progress:
        try:
            with workers:
                _need(progress.await_members(WORKERS, ASSEMBLE_SECONDS), "workers do not assemble")
                feeder.start()
                stage = Stage(cluster, setting, workers, feeder, progress, spare)
                happened = _disturb(schedule, stage)
                ends = feeder.finish()
                if not progress.await_ends(ends, CATCH_UP_SECONDS):
                    outcome.trouble = f"stuck at {dict(progress.committed)} of {ends}"
        finally:
            feeder.stop()
        outcome.recoveries = [_recovery(x, progress) for x in happened]
    outcome.crashes = workers.crashes
    missed = [note for x in happened for note in x.missed]
    seen = read_outputs(cluster.bootstrap, setting)
    if taught and len(seen.champions) < 2:
        missed.append(f"only {len(seen.champions)} models were taught")
    outcome.trouble = "; ".join(filter(None, [outcome.trouble, *missed]))
    models = [x for x in (first, *seen.champions) if x is not None]
    outcome.verdict = _judge(cluster, setting, models, seen)


def _disturb(schedule: Schedule, stage: Stage) -> list[Happened]:
    """Let the faults happen, each at its place in the stream, and be got over.

    Meanwhile records flow, up to the place of the next one.
    """
    places = [fault.at for fault in schedule.faults]
    happened = []
    for fault, following in zip(schedule.faults, [*places, 1 - HELD_BACK][1:], strict=True):
        stage.feeder.let(fault.at)
        _need(stage.feeder.await_sent(fault.at, FEED_SECONDS), "the records are not sent")
        stage.feeder.let(following)
        happened.append(happen(fault, stage))
        stage.progress.await_moved(happened[-1].began, RECOVER_SECONDS)
    return happened


def _recovery(happened: Happened, progress: Progress) -> tuple[str, float | None]:
    at = progress.moved_at(happened.began)
    return happened.kind, None if at is None else round(at - happened.began, 1)


def _judge(cluster: Cluster, setting: Setting, model_ids: list[str], seen: Published) -> Verdict:
    inputs = read_inputs(cluster.bootstrap, setting)
    registry = setting.registry
    models = [registry.load(STREAM, setting.route, x) for x in model_ids]
    expected = expect(setting, inputs, models, seen)
    exactly_once = setting.config.delivery == "exactly_once"
    return judge(expected, seen, ranks(setting, models), exactly_once=exactly_once)


def ranks(setting: Setting, models: list[Model]) -> Ranks:
    """Return what tells one rank of the calibration set that an event is judged by."""
    steps = next(iter(models)).description.layout.steps
    full = {m.model_id: 1.0 / (len(m.calibration[FULL]) + 1) for m in models}
    few = {
        m.model_id: 1.0 / (len(m.calibration[PARTIAL]) + 1)
        for m in models
        if len(m.calibration[PARTIAL]) >= ENOUGH
    }
    sliding = setting.config.streams[STREAM].window.__class__.__name__ == "Sliding"

    def rank(event: ScoredEvent) -> float:
        table = few if sliding and event.records < steps and event.model_id in few else full
        return table[event.model_id]

    return rank


def _need(met: bool, what: str) -> None:
    if not met:
        raise TimeoutError(what)


def _keep(folder: Path, target: Path) -> None:
    """Keep what helps to understand a run."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in [*folder.glob("*.log"), *folder.glob("pipeline.json")]:
        shutil.copy(file, target)
