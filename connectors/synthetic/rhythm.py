"""When events happen, and whose they are: arrivals with a daily rhythm per entity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DAY_NS",
    "HOURS",
    "HOUR_NS",
    "MILLISECOND_NS",
    "MINUTE_NS",
    "SECOND_NS",
    "arrivals",
    "bump",
]

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


def arrivals(
    rng: np.random.Generator,
    activity: NDArray[np.float64],
    per_day: float,
    regularity: float,
    start_ns: int,
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the first ``count`` arrivals of many entities, each with a rhythm of its own.

    Parameters
    ----------
    activity
        ``[24, entities]`` relative rate of each entity in each hour of a day (UTC), positive.
    per_day
        Mean arrivals of all entities in a day.
    regularity
        Shape of the gamma distributed gaps of an entity: 1 is a Poisson process, more is evener.
    start_ns
        When to begin, ns since 1970 UTC.

    Returns
    -------
    times
        ``[count]`` ns, whole milliseconds, not decreasing.
    entities
        ``[count]`` whose they are.
    """
    rates = per_day * activity.sum(axis=0) / activity.sum()
    # more than needed: those of an unlucky entity must not end before the stream does
    expected = rates * count / per_day
    drawn = (expected * 1.1 + 8 * np.sqrt(expected) + 16).astype(np.int64)
    entity = np.repeat(np.arange(len(rates)), drawn)
    gaps = rng.gamma(regularity, 1 / regularity, len(entity)) / rates[entity]
    first = np.cumsum(drawn) - drawn
    gaps[first] *= rng.random(len(first))  # the stream begins in the middle of a gap
    elapsed = np.cumsum(gaps)
    elapsed -= np.repeat(elapsed[first] - gaps[first], drawn)
    times = _clock(activity, entity, elapsed, start_ns)
    order = np.argsort(times, kind="stable")[:count]
    return times[order], entity[order]


def _clock(
    activity: NDArray[np.float64],
    entity: NDArray[np.int64],
    elapsed: NDArray[np.float64],
    start_ns: int,
) -> NDArray[np.int64]:
    """Turn days of an entity's own activity since the start into time on the clock."""
    shares = (activity / activity.sum(axis=0)).T
    passed = np.concatenate([np.zeros((len(shares), 1)), np.cumsum(shares, axis=1)], axis=1)
    day_ns = start_ns - start_ns % DAY_NS
    hour, part = divmod((start_ns - day_ns) / HOUR_NS, 1)
    days = elapsed + (passed[:, int(hour)] + part * shares[:, int(hour)])[entity]
    whole = np.floor(days)
    # one ascending row for all entities, so that one search finds every hour
    edges = (passed[:, :24] + np.arange(len(shares))[:, None]).ravel()
    found = np.searchsorted(edges, entity + (days - whole), side="right") - 1 - 24 * entity
    found = found.clip(0, 23)
    within = (days - whole - passed[entity, found]) / shares[entity, found]
    hours = 24 * whole + found + within.clip(0, 1)
    milliseconds = np.ceil(hours * (HOUR_NS // MILLISECOND_NS)).astype(np.int64)
    return np.asarray(np.maximum(day_ns + milliseconds * MILLISECOND_NS, start_ns), np.int64)
