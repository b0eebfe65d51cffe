"""The alert budget: how many incidents may open within a span of event time."""

from __future__ import annotations

from collections import deque

_DAY = 86_400e9


class Budget:
    """Never more than ``per_day`` openings within 24 hours of event time.

    A budget below one a day allows one in so many days. The less is left, the rarer an anomaly must
    be: the last openings go to the worst.
    """

    def __init__(self, per_day: float) -> None:
        self._capacity = max(1, int(per_day))
        self._span = int(self._capacity / per_day * _DAY)
        self._openings: deque[int] = deque()

    def affords(self, time: int, rarity: float) -> bool:
        """Tell whether an incident may open, and if so count it; ``rarity`` 1 is the commonest."""
        time = max(time, self._openings[-1]) if self._openings else time
        while self._openings and self._openings[0] <= time - self._span:
            self._openings.popleft()
        left = 1.0 - len(self._openings) / self._capacity
        if left <= 0 or rarity > left:
            return False
        self._openings.append(time)
        return True

    def state(self) -> list[int]:
        """Copy the state: the times of openings within the span."""
        return list(self._openings)

    def restore(self, state: list[int]) -> None:
        """Go on from a state."""
        self._openings = deque(state)
