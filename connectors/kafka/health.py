"""What a worker waits for, and since when: the truth behind its health endpoint and its log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog

__all__ = ["Health"]

log = structlog.get_logger(__name__)

# A wait is logged when it begins and then this often, however often it is reported.
REPEAT_SECONDS = 30.0


class Health:
    """The waits of a worker, by the part that waits.

    A worker that waits for anything is not ready; one that waits too long for one thing is not
    healthy, and somebody should look.

    Parameters
    ----------
    limit_seconds
        The longest healthy wait.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, limit_seconds: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit_seconds
        self._clock = clock
        self._waits: dict[str, tuple[float, str]] = {}
        self._logged: dict[str, float] = {}

    def wait(self, part: str, reason: str, *, expected: bool = False) -> None:
        """Report that a part waits, or still waits; an expected wait is logged if it gets long."""
        now = self._clock()
        since, _ = self._waits.get(part, (now, ""))
        self._waits[part] = (since, reason)
        last = self._logged.get(part, since if expected else -math.inf)
        if now - last >= REPEAT_SECONDS:
            self._logged[part] = now
            log.warning("waiting", part=part, reason=reason, seconds=round(now - since, 1))

    def done(self, part: str) -> None:
        """Report that a part goes on."""
        wait = self._waits.pop(part, None)
        if wait is not None and self._logged.pop(part, None) is not None:
            log.info("going on", part=part, waited_seconds=round(self._clock() - wait[0], 1))

    @property
    def ready(self) -> bool:
        """Whether nothing is waited for."""
        return not self._waits

    @property
    def healthy(self) -> bool:
        """Whether no wait is older than the limit."""
        now = self._clock()
        return all(now - since <= self._limit for since, _ in list(self._waits.values()))

    @property
    def reason(self) -> str:
        """What is waited for, in words; empty when nothing is."""
        now = self._clock()
        return "; ".join(
            f"{reason} (for {now - since:.0f} s)" for since, reason in list(self._waits.values())
        )
