"""Resident memory of a process against what it has processed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.soak.plan import Resident


def sample(pid: int) -> tuple[float, float]:
    """Return resident memory and its high-water mark, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    told = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return int(told["VmRSS"][0]) / 1024, int(told["VmHWM"][0]) / 1024


def resident(samples: Sequence[tuple[int, float]], records: int, high: float) -> Resident:
    """Fit a line to the samples (records, MiB) of the last three quarters of the records."""
    late = [(x, y) for x, y in samples if x >= records / 4]
    places = np.array([x for x, _ in late], dtype=float)
    sizes = np.array([y for _, y in late])
    if len(np.unique(places)) < 2:
        msg = f"{len(late)} samples of memory make no line: take more records"
        raise ValueError(msg)
    slope, start = np.polyfit(places, sizes, 1)
    first, last = (float(start + slope * x) for x in (records / 4, records))
    return Resident(
        samples=[(x, round(y, 1)) for x, y in samples],
        at_quarter=round(first, 1),
        at_end=round(last, 1),
        growth_percent=round(100 * (last - first) / first, 2),
        high_water=round(high, 1),
    )
