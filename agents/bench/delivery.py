"""What the guarantees cost: records/s without any, at least once, and exactly once."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from agents.bench.machine import machine
from agents.bench.subject import FIT_ON, KEYS, TOPIC, make_pipeline, preload, random_messages
from agents.bench.throughput import rate_of
from connectors.broker import Broker
from schemas.config import Kafka

LIMITS = {"at_least_once": 15.0, "exactly_once": 35.0}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Medians in records/s, every scored event published; costs in percent of ``off``.

    ``off`` takes no checkpoints, and commits what is processed while its outputs are still on
    their way, so that a crash loses some of them, and all windows. ``at_least_once`` takes
    checkpoints and commits when everything is acknowledged, ``exactly_once`` takes checkpoints and
    does both in transactions. A cost is the median over the repeats, each of which runs all three
    one after the other.
    """

    off: float
    at_least_once: float
    exactly_once: float
    at_least_once_cost: float
    exactly_once_cost: float
    records: int
    keys: int
    repeats: int
    machine: str


def measure_delivery(records: int, keys: int, repeats: int, say: Callable[[str], None]) -> Cost:
    """Run the whole worker over one topic in three ways, in turn."""
    messages = random_messages(records, keys)
    # of many keys few windows would be complete
    history = random_messages(min(records, FIT_ON), min(keys, KEYS)).values
    found: dict[str, list[float]] = {"off": [], **{name: [] for name in LIMITS}}
    with Broker() as broker, tempfile.TemporaryDirectory(prefix="eddy-bench-") as folder:
        preload(Kafka(bootstrap=broker.bootstrap), messages)
        say(f"{records:,} records stand in {TOPIC} at {broker.bootstrap}")
        commands = {}
        for name in LIMITS:
            path = make_pipeline("all", broker.bootstrap, Path(folder), history, name)
            commands[name] = ["agents.bench.worker", str(path), str(records)]
        commands["off"] = [*commands["at_least_once"], "bare"]
        for repeat in range(repeats):
            # none of them always comes first
            names = sorted(commands)[repeat % 3 :] + sorted(commands)[: repeat % 3]
            for name in names:
                rate = rate_of(commands[name])
                say(f"{name}: {rate:,.0f} records/s")
                found[name].append(rate)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    costs = {f"{name}_cost": _cost(found["off"], found[name]) for name in LIMITS}
    return Cost(records=records, keys=keys, repeats=repeats, machine=machine(), **medians, **costs)


def _cost(off: list[float], rates: list[float]) -> float:
    """Return by how many percent fewer records pass."""
    return statistics.median(100 * (1 - b / a) for a, b in zip(off, rates, strict=True))
