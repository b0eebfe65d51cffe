"""The runs with deliberate mistakes, and what must be noticed in each."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.run import Outcome
from tests.chaos.schedule import DELIVERIES, Fault, Schedule

SLIDING = {"kind": "sliding", "size": 8}
KILLS = tuple(
    Fault(kind="kill", at=at, worker=worker)
    for at, worker in ((0.2, 0), (0.35, 1), (0.5, 2), (0.65, 0))
)
SWAPS = (Fault(kind="swapped", at=0.4),)
BOTH = DELIVERIES
SUFFIX = {"at_least_once": "", "exactly_once": "-exactly-once"}

FAULTS: dict[str, tuple[Fault, ...]] = {
    "commit_before_publish": KILLS,
    "no_restore": KILLS,
    "suppress_one_too_many": KILLS,
    "calibrate_per_batch": (),  # shows in a run that nothing disturbs
    "swap_without_barrier": SWAPS,
    "without_transactions": KILLS,
}

DELIVERED: dict[str, tuple[str, ...]] = {
    "commit_before_publish": ("at_least_once",),  # the other way, one step does both
    "no_restore": BOTH,
    "suppress_one_too_many": BOTH,
    "calibrate_per_batch": ("at_least_once",),  # nothing of it concerns delivery
    "swap_without_barrier": BOTH,
    "without_transactions": ("exactly_once",),
}
"""Under which deliveries a mistake is made."""

SHOWS: dict[str, Callable[[Outcome], bool]] = {
    "commit_before_publish": lambda x: x.verdict.lost > 0,
    "no_restore": lambda x: x.verdict.wrong > 0,
    "suppress_one_too_many": lambda x: x.verdict.lost > 0,
    "calibrate_per_batch": lambda x: x.verdict.by_kind.get("event differs", 0) > 0,
    "swap_without_barrier": lambda x: x.verdict.by_kind.get("event differs", 0) > 0,
    "without_transactions": lambda x: x.verdict.by_kind.get("published again", 0) > 0,
}


def mutated() -> list[Schedule]:
    """Return a schedule per mutation and delivery."""
    return [
        Schedule(
            name=f"mutation-{name}{SUFFIX[delivery]}".replace("_", "-"),
            seed=index,
            kind="mutation",
            records=20_000,
            pace=600,
            window=SLIDING,
            detector="pca",
            delivery=delivery,
            faults=faults,
            mutation=name,
        )
        for index, (name, faults) in enumerate(FAULTS.items())
        for delivery in DELIVERED[name]
    ]


def unnoticed(outcome: Outcome) -> bool:
    """Whether a mistake went through, or something else kept it from showing."""
    return not SHOWS[outcome.schedule.mutation](outcome)
