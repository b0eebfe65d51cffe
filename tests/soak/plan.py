"""What a soak runs, and what it found."""

from __future__ import annotations

from typing import Literal

import msgspec

from tests.chaos.law import Verdict

Part = Literal["kills", "memory"]

SLOPE_PERCENT = 5.0
"""How much resident memory may grow over the last three quarters of the records."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a soak; the records follow from ``seed``, ``records`` and ``keys``."""

    part: Part
    records: int
    keys: int
    delivery: str
    seed: int = 0
    kills: int = 0
    workers: int = 1

    @property
    def name(self) -> str:
        """Name of its result."""
        return f"{self.part}-{self.delivery}"


class Resident(msgspec.Struct, kw_only=True):
    """Resident memory of a worker, in MiB.

    ``growth_percent`` is by how much a straight line through the samples of the last three
    quarters of the records rises, beginning to end.
    """

    samples: list[tuple[int, float]]
    at_quarter: float
    at_end: float
    growth_percent: float
    high_water: float


class Found(msgspec.Struct, kw_only=True):
    """How a part went.

    ``recoveries`` holds for each kill the records that were committed when it came, and the
    seconds until every partition had made progress again, or None where that did not happen.
    ``trouble`` is what kept the part from coming to its end; ``code`` is the fingerprint of the
    code that ran.
    """

    plan: Plan
    verdict: Verdict
    recoveries: list[tuple[int, float | None]] = []
    resident: Resident | None = None
    crashes: list[int] = []
    records_per_second: float = 0.0
    seconds: float = 0.0
    machine: str = ""
    trouble: str = ""
    code: str = ""

    @property
    def green(self) -> bool:
        """Whether the law held, the part came to its end, and memory stayed within its limit."""
        grown = self.resident is not None and self.resident.growth_percent > SLOPE_PERCENT
        return self.verdict.holds and not grown and not self.trouble
