"""VUS-PR: the volume under the precision-recall surface of ranges with a soft border.

A detector that raises its score a little before or after the labelled windows has found the
anomaly, and labels are seldom exact to the window. So each labelled range gets a border of
windows that count in part, and the area under the precision-recall curve is averaged over the
widths of that border.

References
----------
Paparrizos, Boniol, Palpanas, Tsay, Elmore and Franklin 2022, *Volume Under the Surface: A New
Accuracy Evaluation Measure for Time-Series Anomaly Detection*, PVLDB 15 (11): range-AUC-PR and
VUS-PR.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.events import Events
from agents.records import Floats, Ints


def vus_pr(
    labels: NDArray[np.bool_],
    scores: Floats,
    series: Ints,
    buffer: int,
    thresholds: int | None = None,
) -> float:
    """Return the volume for ``[W]`` windows, those of a series together and in time order.

    A series is a key. Borders end with it, and one curve is drawn for all of them, because one
    threshold judges them all.

    Parameters
    ----------
    labels, scores
        Which windows are anomalous, at least one, and how anomalous each was found.
    series
        Number of the series of each window.
    buffer
        ``L``: the border is ``0 .. L`` windows wide, half of it on each side of a range.
    thresholds
        How many scores, evenly spaced by rank, are thresholds. The authors' code takes 250. By
        default every score is one: among rare anomalies 250 leave out most of the curve.

    Notes
    -----
    A window at distance ``d`` from a range, at most half of the border ``l``, weighs
    ``sqrt(1 - d / l)``, and 1 at most where borders meet. With ``P`` labelled windows, and flagged
    weights of ``T`` in all and ``B`` in the borders,

    ``recall = min(T / (P + B / 2), 1) * (share of ranges with a flagged window)``

    where ranges whose borders meet are one, and ``precision = T / flagged``. Without a border and
    with a single range the area is the average precision.
    """
    surface = _Surface.of(labels, scores, series, buffer, thresholds)
    return float(np.mean([surface.area(width) for width in range(buffer + 1)]))


@dataclass(frozen=True, slots=True)
class _Surface:
    """What does not depend on the width of the border.

    Attributes
    ----------
    cuts
        Thresholds, descending; ``flagged`` and ``labelled`` count the windows at or above each.
    near, distance
        A pair for each range and each window of its widest border: the place of the window among
        all in a border, by falling score, and how far it lies from the range.
    reached
        How many of the windows in borders are at or above each threshold.
    left, right
        First and last window of the series of each range.
    """

    scores: Floats
    events: Events
    cuts: Floats
    flagged: Ints
    labelled: Ints
    near: Ints
    distance: Ints
    reached: Ints
    left: Ints
    right: Ints

    @classmethod
    def of(
        cls,
        labels: NDArray[np.bool_],
        scores: Floats,
        series: Ints,
        buffer: int,
        thresholds: int | None,
    ) -> _Surface:
        events = Events.of(labels, series)
        left = np.searchsorted(series, series[events.first], side="left")
        right = np.searchsorted(series, series[events.last], side="right") - 1
        steps = np.arange(1, buffer // 2 + 1)
        before, after = events.first[:, None] - steps, events.last[:, None] + steps
        where = np.concatenate([before, after])
        inside = np.concatenate([before >= left[:, None], after <= right[:, None]])
        inside[inside] = ~labels[where[inside]]
        windows, near = np.unique(where[inside], return_inverse=True)
        order = np.argsort(-scores[windows], kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        if thresholds is None:
            # between the scores of these windows recall stands still
            cuts = np.unique(np.concatenate([scores[labels], scores[windows]]))[::-1]
        else:
            ranks = np.linspace(0, len(scores) - 1, thresholds).astype(np.int64)
            cuts = np.sort(scores)[::-1][ranks]
        return cls(
            scores=np.append(scores, -np.inf),
            events=events,
            cuts=cuts,
            flagged=_at_least(scores, cuts),
            labelled=_at_least(scores[labels], cuts),
            near=rank[near],
            distance=np.broadcast_to(steps, where.shape)[inside],
            reached=_at_least(scores[windows], cuts),
            left=left,
            right=right,
        )

    def area(self, width: int) -> float:
        """Return the area under the curve with a border of this width."""
        in_border = self._border(width)
        hit = self.labelled + in_border
        positives = self.events.length.sum() + in_border / 2
        recall = np.minimum(hit / positives, 1.0) * self._existence(width // 2)
        precision = hit / self.flagged
        return float(np.diff(recall, prepend=0.0) @ precision)

    def _border(self, width: int) -> Floats:
        """Sum the weights of the border at or above each threshold."""
        within = self.distance <= width // 2
        weights = np.sqrt(1 - self.distance[within] / max(width, 1))
        size = int(self.near.max(initial=-1)) + 1
        each = np.minimum(np.bincount(self.near[within], weights, minlength=size), 1.0)
        return np.concatenate([[0.0], np.cumsum(each)])[self.reached]

    def _existence(self, half: int) -> Floats:
        """Return the share of ranges that hold a window at or above each threshold."""
        first = np.maximum(self.events.first - half, self.left)
        last = np.minimum(self.events.last + half, self.right)
        apart = last[:-1] < first[1:]
        first, last = first[np.append(True, apart)], last[np.append(apart, True)]
        bounds = np.stack([first, last + 1], axis=1).ravel()
        highest = np.maximum.reduceat(self.scores, bounds)[::2]
        return _at_least(highest, self.cuts) / len(first)


def _at_least(values: Floats, cuts: Floats) -> Ints:
    """Count the values at or above each cut."""
    return len(values) - np.searchsorted(np.sort(values), cuts, side="left")
