"""How long to wait before trying again: longer each time, and never in step with others."""

from __future__ import annotations

import random
from collections.abc import Iterator

__all__ = ["pauses"]


def pauses(first_seconds: float = 0.2, most_seconds: float = 10.0) -> Iterator[float]:
    """Yield pauses without end, growing by half each time, each varied by 30 percent.

    All workers of a group lose the broker at the same moment; without the variation they would
    all come back at the same moment, too, again and again.
    """
    pause = first_seconds
    while True:
        yield pause * random.uniform(0.7, 1.3)  # noqa: S311 (no secret depends on it)
        pause = min(pause * 1.5, most_seconds)
