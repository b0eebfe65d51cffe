"""When events happen, and whose they are: arrivals with a daily rhythm per entity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["DAY_NS", "HOURS", "HOUR_NS", "MILLISECOND_NS", "MINUTE_NS", "SECOND_NS", "Rhythm", "bump"]

MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS

HOURS: NDArray[np.float64] = (np.arange(24.0) + 0.5)[:, None]
"""``[24, 1]`` the middle of every hour of a day."""


def bump(
    hour: NDArray[np.float64], centre: NDArray[np.float64], sharpness: float
) -> NDArray[np.float64]:
    """Return how near an hour is to the centre of a day's activity: 1 there, least 12 h away."""
    closeness = np.cos((hour - centre) * (2 * np.pi / 24)) - 1
    return np.asarray(np.exp(sharpness * closeness), np.float64)


class Rhythm:
    """Random arrivals whose rate, and whose owners, depend on the hour of the day (UTC).

    Parameters
    ----------
    activity
        ``[24, entities]`` relative rate of each entity in each hour, positive.
    per_day
        Mean number of arrivals in a day.
    """

    def __init__(self, activity: NDArray[np.float64], per_day: float) -> None:
        by_hour = activity.sum(axis=1)
        self._per_day = per_day
        self._elapsed = np.concatenate([[0.0], np.cumsum(by_hour / by_hour.sum())])
        owners = np.cumsum(activity, axis=1) / by_hour[:, None]
        # one ascending row for all hours: the owner is found by one search
        self._owners = (owners + np.arange(24)[:, None]).ravel()
        self._entities = activity.shape[1]

    def advance(self, start_ns: int, events: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return when so many arrivals are expected to have happened since a start.

        Parameters
        ----------
        start_ns
            The start, ns since 1970 UTC.
        events
            ``[n]`` numbers of arrivals; cumulated exponential steps give random arrivals.

        Returns
        -------
        NDArray[np.int64]
            ``[n]`` times in ns, whole milliseconds.
        """
        day_ns = start_ns - start_ns % DAY_NS
        hour = (start_ns - day_ns) / HOUR_NS
        days = np.interp(hour, np.arange(25), self._elapsed) + events / self._per_day
        hours = np.interp(days % 1, self._elapsed, np.arange(25)) + 24 * np.floor(days)
        milliseconds = np.ceil(hours * (HOUR_NS // MILLISECOND_NS)).astype(np.int64)
        times = np.maximum(day_ns + milliseconds * MILLISECOND_NS, start_ns)
        return np.asarray(times, np.int64)

    def owners(self, rng: np.random.Generator, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw the entity of each arrival, ``[n]``, by the activities in its hour."""
        hour = times % DAY_NS // HOUR_NS
        found = np.searchsorted(self._owners, hour + rng.random(len(times)), side="right")
        last = self._entities - 1  # a sum of shares may round to less than 1
        return np.asarray(np.minimum(found - hour * self._entities, last), np.int64)
