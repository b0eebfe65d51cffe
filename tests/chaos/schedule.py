"""What happens in a run, and when: a function of the seed."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec

PARTITIONS = 4
WORKERS = 3
NODES = 3

KINDS = (
    "none",
    "kill",
    "restart",
    "zombie",
    "broker",
    "leader",
    "stall",
    "full",
    "away",
    "truncate",
    "poison",
    "swap",
    "corrupt",
    "mixed",
)
"""What disturbs a run; seed modulo their number chooses. See :mod:`tests.chaos.faults`."""

DELIVERIES = ("at_least_once", "exactly_once")
"""What the workers offer; a kind of fault meets them in turn."""

MIXABLE = ("kill", "restart", "zombie", "broker", "stall", "full", "poison", "swap")

WINDOWS: tuple[dict[str, Any], ...] = (
    {"kind": "sliding", "size": 8},
    {"kind": "sliding", "size": 4, "stride": 2},
    {"kind": "tumbling", "length": "2m"},
    {"kind": "session", "gap": "1m", "size": 16},
)


LEARNERS = ("loda", "hst", "online_iforest", "memstream")
"""Detectors of the runs in which the model learns from the stream."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One disturbance.

    ``at`` is the share of the records that have been sent when it comes; ``seconds`` how long it
    stays, for those that do not wait for something. ``node`` 0 means all of them.
    """

    kind: str
    at: float
    worker: int = 0
    node: int = 1
    partition: int = 0
    seconds: float = 0.0


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """One run: the records, the pipeline, and the faults in their order.

    ``pace`` is in records a second; ``mutation`` names a deliberate mistake in the workers.
    Without ``archive`` a checkpoint waits for no other file: a full disk fails it at once. With
    ``update_every`` a trainer runs beside the workers.
    """

    name: str
    seed: int
    kind: str
    records: int
    pace: int
    window: dict[str, Any]
    detector: str
    key: str = "card"
    drift: bool = False
    batch: int = 8192
    delivery: str = "at_least_once"
    archive: bool = True
    faults: tuple[Fault, ...] = ()
    checkpoint_seconds: int = 10
    mutation: str = ""
    update_every: int | None = None

    @property
    def breaks_brokers(self) -> bool:
        """Whether the cluster is a used one afterwards."""
        return any(fault.kind in {"broker", "leader"} for fault in self.faults)


def make(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    rng = random.Random(f"chaos {seed}")
    kind = KINDS[seed % len(KINDS)]
    # each kind of fault meets each kind of window
    window = WINDOWS[(seed + seed // len(KINDS)) % len(WINDOWS)]
    stateless = window["kind"] == "sliding" and rng.random() < 0.15
    if stateless:  # each record by itself: what is left of state is calibration and accounts
        window = {"kind": "sliding", "size": 1}
    return Schedule(
        name=f"seed-{seed:04d}",
        seed=seed,
        kind=kind,
        records=20_000 + 1_000 * rng.randrange(11),
        pace=rng.choice((600, 800)),
        window=window,
        detector=rng.choice(("pca", "pca", "knn")) if window["kind"] == "sliding" else "pca",
        key="none" if stateless else "card",
        drift=rng.random() < 0.3,
        batch=rng.choice((512, 8192)),
        delivery=DELIVERIES[seed // len(KINDS) % len(DELIVERIES)],
        archive=seed // len(KINDS) // len(DELIVERIES) % 2 == 0,
        faults=tuple(_faults(kind, rng)),
        checkpoint_seconds=rng.choice((1, 3, 10)),
    )


def learning() -> list[Schedule]:
    """Return runs in which a trainer updates the model over and over, and it is killed as well."""
    return [
        Schedule(
            name=f"learn-{detector}-{delivery}".replace("_", "-"),
            seed=index,
            kind="learn",
            records=20_000,
            pace=600,
            window=WINDOWS[0],
            detector=detector,
            delivery=delivery,
            faults=(
                Fault(kind="kill", at=0.3, worker=index % WORKERS),
                Fault(kind="trainer", at=0.45),
                Fault(kind=("zombie", "restart")[index % 2], at=0.6, seconds=10.0),
            ),
            checkpoint_seconds=1,
            update_every=1000,
        )
        for index, (detector, delivery) in enumerate(itertools.product(LEARNERS, DELIVERIES))
    ]


def _faults(kind: str, rng: random.Random) -> list[Fault]:
    if kind == "none":
        return []
    if kind == "mixed":
        kinds = rng.sample(MIXABLE, 3)
        return [fault(k, rng, 0.15 + 0.2 * i) for i, k in enumerate(kinds)]
    if kind == "swap":
        kind = rng.choice(("swap", "swapped"))
    faults = [fault(kind, rng, rng.uniform(0.2, 0.5))]
    if kind in {"kill", "truncate"}:
        faults.append(fault(kind, rng, rng.uniform(0.55, 0.7)))
    return faults


def fault(kind: str, rng: random.Random, at: float) -> Fault:
    """Draw the particulars of a fault."""
    return Fault(
        kind=kind,
        at=round(at, 3),
        worker=rng.randrange(WORKERS),
        node=rng.randrange(0 if kind == "stall" else 1, NODES + 1),
        partition=rng.randrange(PARTITIONS),
        seconds=round(rng.uniform(4.0, 16.0), 1),
    )
