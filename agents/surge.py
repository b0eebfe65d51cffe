"""Surges: what many keys do at once is a change, what one key does is an anomaly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.snapshot import State

KEYS = 5
SPAN = 6 * 3600 * 10**9  # ns
BEYOND = 1.5
_DAY = 86_400e9
REMEMBERED = 256
CAUSES = 4096


@dataclass(slots=True)
class _Cause:
    """The keys that were odd for one reason, by when last, and how odd each of them was last.

    One score a key: a key that is odd again and again says no more about the others.
    """

    keys: dict[str, int] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


class Surges:
    """Main causes for which many keys of a partition have been odd within a span of event time.

    Parameters
    ----------
    keys
        How many keys make a surge; more than one expects by chance within the span.
    span
        For how long an odd window counts, ns.
    """

    def __init__(self, keys: int, span: int) -> None:
        self._keys, self._span = keys, span
        self._causes: dict[str, _Cause] = {}

    def take(self, key: str, now: int, causes: Mapping[str, float], score: float) -> bool:
        """Take in an odd window; tell whether a surge explains it.

        It does if many keys share one of its main ``causes``, and the ``score`` is not far beyond
        theirs.
        """
        most = max(causes.values(), default=0.0)
        taken = [self._count(name, key, now, score) for name in causes if causes[name] >= most / 2]
        return any(taken)

    def _count(self, name: str, key: str, now: int, score: float) -> bool:
        cause = self._causes.pop(name, None) or _Cause()
        self._causes[name] = cause  # the causes seen last stand last
        while len(self._causes) > CAUSES:
            del self._causes[next(iter(self._causes))]
        cause.keys.pop(key, None)
        cause.keys[key] = now
        while len(cause.keys) > self._keys or now - next(iter(cause.keys.values())) > self._span:
            del cause.keys[next(iter(cause.keys))]
        cause.scores.pop(key, None)
        others = sorted(cause.scores.values())
        cause.scores[key] = score
        if len(cause.scores) > REMEMBERED:
            del cause.scores[next(iter(cause.scores))]
        usual = others[int(0.9 * len(others))] if others else score
        return len(cause.keys) == self._keys and score <= BEYOND * usual

    def state(self) -> State:
        """Copy the state: causes and their keys, those seen last at the end."""
        return {
            name: {"keys": cause.keys.copy(), "scores": cause.scores.copy()}
            for name, cause in self._causes.items()
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        for name, cause in state.items():
            self._causes[name] = _Cause(cause["keys"].copy(), cause["scores"].copy())


def surges_within(per_day: float) -> Surges:
    """Look for surges: twice as many keys as a budget lets open incidents are no chance."""
    return Surges(max(KEYS, math.ceil(2 * per_day * SPAN / _DAY)), SPAN)
