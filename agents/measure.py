"""Measuring a replay: labels of windows beside what the pipeline made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from agents.events import delay_metrics
from agents.labels import window_labels
from agents.metrics import detection_metrics
from agents.partition import PartitionState
from agents.publish import Judged
from agents.records import Records
from agents.vus import vus_pr
from schemas.config import Hopping, Sliding, Stream


@dataclass(slots=True)
class _Route:
    """Labels, scores, verdicts, ends and keys of the windows of a route, in parts."""

    buffer: int
    parts: list[tuple[NDArray[np.generic], ...]] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)

    def add(self, judged: Judged, labels: NDArray[np.int8]) -> None:
        key, number = judged.windows.key, self.number
        series = np.array([number.setdefault(k, len(number)) for k in key], dtype=np.int64)
        end, flagged = judged.windows.end, judged.verdicts.is_anomaly
        self.parts.append((labels, judged.scores, flagged, end, series))

    def results(self) -> dict[str, float]:
        labels, scores, flagged, end, series = map(np.concatenate, zip(*self.parts, strict=True))
        found = detection_metrics(labels, scores, flagged)
        if not found:
            return {}
        order = np.lexsort((end, series))  # stable: arrival decides where event times are equal
        order = order[labels[order] >= 0]
        truth, series = labels[order] == 1, series[order]
        found["vus_pr"] = vus_pr(truth, scores[order], series, self.buffer)
        return found | delay_metrics(truth, flagged[order], series, end[order])


class Measure:
    """Collects the scores and labels of every window, published or not."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}
        self._records: dict[str, list[Records]] = {}

    def saw(self, records: Records, stream: str) -> None:
        """Remember the labels of records, for windows that end in a later fetch."""
        self._records.setdefault(stream, []).append(records)

    def __call__(self, state: PartitionState, route: str, judged: Judged) -> None:
        """Remember what was decided."""
        known = [judged.records] if judged.windows.row is not None and judged.records else None
        if known is None:
            known = [r for r in self._records.get(state.name, ()) if r.partition == state.partition]
        name = f"{state.name}/{route}"
        if name not in self._routes:
            self._routes[name] = _Route(buffer_length(state.stream))
        self._routes[name].add(judged, window_labels(judged.windows, known))

    def results(self) -> dict[str, dict[str, float]]:
        """Measure each route; unlabelled windows do not count.

        Returns
        -------
        dict[str, dict[str, float]]
            By ``stream/route``: what :func:`agents.metrics.detection_metrics` tells; ``vus_pr``, by
            :func:`agents.vus.vus_pr`; how soon labelled events were noticed, by
            :func:`agents.events.delay_metrics`. For the last two, the windows of a key are a series
            in the order of event time. A stream without keys is one series. Empty for a route
            without both kinds of label.
        """
        return {name: route.results() for name, route in self._routes.items()}


def buffer_length(stream: Stream) -> int:
    """Return the widest border, in windows, that labelled windows get for ``vus_pr``.

    As many windows as one record can be in, because a label may belong to any of them (the paper
    takes the length of the subsequences that a detector sees); 2 at least, one on each side.
    """
    window, overlap = stream.window, 1
    if isinstance(window, Sliding) and stream.key != "none":
        overlap = ceil(window.size / window.stride)
    elif isinstance(window, Hopping):
        overlap = ceil(window.length / window.hop)
    return max(overlap, 2)
