"""One part of a soak, from the first record to the verdict."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from agents.bench.machine import machine
from detectors.model import Model
from tests.chaos.law import Verdict, judge
from tests.chaos.progress import Progress
from tests.chaos.published import Published, read_outputs
from tests.chaos.run import ranks
from tests.chaos.setting import Setting
from tests.chaos.workers import Workers
from tests.soak.memory import resident, sample
from tests.soak.plan import Found, Plan

SAMPLE_SECONDS = 1.0
ASSEMBLE_SECONDS = 90.0
RECOVER_SECONDS = 90.0
STUCK_SECONDS = 300.0
FIRST_KILL, LAST_KILL = 0.02, 0.95


def perform(
    plan: Plan, setting: Setting, bootstrap: str, ends: Mapping[int, int], folder: Path
) -> Found:
    """Let the workers go through the topic, and see what happens to them on the way."""
    began = time.monotonic()
    found = Found(plan=plan, verdict=Verdict(), machine=machine())
    workers = Workers(plan.workers, setting.file, folder)
    group, topic = setting.group, setting.topic
    with Progress(bootstrap, group, topic, lambda: ends) as progress, workers:
        if not progress.await_members(plan.workers, ASSEMBLE_SECONDS):
            found.trouble = "the workers do not assemble"
        elif plan.part == "kills":
            found.trouble = _kill(plan, found, workers, progress, sum(ends.values()))
            if not found.trouble and not progress.await_ends(ends, STUCK_SECONDS):
                found.trouble = "the rest is not processed"
        else:
            found.trouble = _watch(found, workers, progress, ends)
        found.records_per_second = _rate(progress)
    found.crashes = workers.crashes
    found.seconds = round(time.monotonic() - began, 1)
    return found


def verify(found: Found, setting: Setting, bootstrap: str, model: Model, due: Published) -> None:
    """Compare what an independent reader finds with what is due."""
    seen = read_outputs(bootstrap, setting)
    exactly_once = found.plan.delivery == "exactly_once"
    found.verdict = judge(due, seen, ranks(setting, [model]), exactly_once=exactly_once)


def positions(plan: Plan) -> list[int]:
    """Return the numbers of committed records at which a worker is killed."""
    rng = random.Random(f"kills {plan.seed}")
    drawn = (rng.uniform(FIRST_KILL, LAST_KILL) for _ in range(plan.kills))
    return sorted(int(share * plan.records) for share in drawn)


def _kill(plan: Plan, found: Found, workers: Workers, progress: Progress, total: int) -> str:
    """Kill a worker at each position; one that is passed before all are back comes at once."""
    rng = random.Random(f"victims {plan.seed}")
    for position in positions(plan):
        if not progress.await_total(position, STUCK_SECONDS):
            return f"stuck before {position:,} records"
        if not progress.await_members(plan.workers, RECOVER_SECONDS):
            return "a killed worker does not come back"
        at = sum(progress.committed.values())
        if at >= total:
            return f"{len(found.recoveries)} kills and no records left: take more records"
        began = time.monotonic()
        workers[rng.randrange(plan.workers)].signal(signal.SIGKILL)
        progress.await_moved(began, RECOVER_SECONDS)
        back = progress.moved_at(began)
        found.recoveries.append((at, None if back is None else round(back - began, 1)))
        if back is None:
            return "no recovery from a kill"
    return ""


def _watch(found: Found, workers: Workers, progress: Progress, ends: Mapping[int, int]) -> str:
    """Sample the memory of the only worker until everything is committed."""
    samples: list[tuple[int, float]] = []
    high, moved_at, before = 0.0, time.monotonic(), -1
    done = False
    while not done:
        done = progress.await_ends(ends, SAMPLE_SECONDS)
        at, pid = sum(progress.committed.values()), workers[0].pid
        if pid is None:
            return "the worker has ended"
        if at > before:
            before, moved_at = at, time.monotonic()
        elif time.monotonic() - moved_at > STUCK_SECONDS:
            return f"stuck at {at:,} records"
        now, high = sample(pid)
        samples.append((at, now))
    found.resident = resident(samples, sum(ends.values()), high)
    return ""


def _rate(progress: Progress) -> float:
    """Return records/s between the first commit and the last."""
    totals = [(x.at, sum(x.committed.values())) for x in progress.samples]
    moves = [b for a, b in itertools.pairwise(totals) if b[1] > a[1]]
    if len(moves) < 2:
        return 0.0
    (begin, few), (end, many) = moves[0], moves[-1]
    return round((many - few) / (end - begin), 1)
