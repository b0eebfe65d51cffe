"""Labelled events: what a person would call one anomaly, and how soon it was noticed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.records import Ints


@dataclass(frozen=True, slots=True)
class Events:
    """Maximal runs of labelled windows within a series: ``[E]`` first and last window of each."""

    first: Ints
    last: Ints

    @classmethod
    def of(cls, labels: NDArray[np.bool_], series: Ints) -> Events:
        """Find the events among ``[W]`` windows, those of a series together and in time order."""
        new = np.append(True, series[1:] != series[:-1])
        begins = labels & (new | ~np.append(False, labels[:-1]))
        ends = labels & (np.append(new[1:], True) | ~np.append(labels[1:], False))
        return cls(np.flatnonzero(begins), np.flatnonzero(ends))

    @property
    def length(self) -> Ints:
        """Windows of each event."""
        return self.last - self.first + 1


def delay_metrics(
    labels: NDArray[np.bool_], flagged: NDArray[np.bool_], series: Ints, end: Ints
) -> dict[str, float]:
    """Measure how many events were noticed while they lasted, and how soon.

    ``[W]`` windows, at least one of them labelled, those of a series together and in time order;
    ``end`` is when each ends, in ns.

    Returns
    -------
    dict[str, float]
        ``events``, their number; ``event_recall``, the share with a flagged window. For those, from
        the first labelled window to the first flagged one: ``delay_windows`` and
        ``delay_seconds`` of event time, means, and the medians ``delay_windows_median`` and
        ``delay_seconds_median``; missing where no event was noticed.
    """
    events = Events.of(labels, series)
    alarms = np.append(np.flatnonzero(flagged), len(flagged))
    notice = alarms[np.searchsorted(alarms, events.first)]
    noticed = notice <= events.last
    measures = {"events": float(len(noticed)), "event_recall": float(noticed.mean())}
    if not noticed.any():
        return measures
    first, notice = events.first[noticed], notice[noticed]
    for unit, delay in (("windows", notice - first), ("seconds", (end[notice] - end[first]) / 1e9)):
        measures[f"delay_{unit}"] = float(delay.mean())
        measures[f"delay_{unit}_median"] = float(np.median(delay))
    return measures
