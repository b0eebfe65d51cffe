"""encode: columns become features that no model has a say in, so that state outlives any model.

Numbers get their transform, category values and log templates their codes. Scaling and
vocabularies belong to the model (:mod:`detectors.model`) and are applied to whole windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.keys import Groups
from agents.records import Floats, Ints, Records
from agents.rows import Rows
from agents.templates import CodeCache, Codes, TemplateMatcher
from detectors.windows import GAP
from schemas.config import Stream

DAY = 86_400 * 10**9
LARGEST = 1e30
"""Size at which numbers are cut off: beyond some more of it float32 is infinite."""

LARGEST_LOG = 700.0
"""Logarithm beyond which numbers overflow."""


def feature_names(stream: Stream) -> tuple[list[str], list[str]]:
    """Return the names of the numeric features and of the category features of a record."""
    numbers = stream.of_type("number")
    if GAP in stream.derive:
        numbers.append(GAP)
    if "time_of_day" in stream.derive:
        numbers += ["time_of_day_sin", "time_of_day_cos"]
    return numbers, stream.of_type("category") + stream.of_type("text")


def logarithmic(stream: Stream) -> set[str]:
    """Names of the numeric features that are logarithms, as :func:`to_log` makes them."""
    names = {n for n in stream.of_type("number") if stream.fields[n].transform == "log1p"}
    return names | ({GAP} & set(stream.derive))


def to_log(values: Floats) -> Floats:
    """``sign(x) log(1 + |x|)``: sizes of any sign and magnitude on one scale."""
    found: Floats = np.sign(values) * np.log1p(np.abs(values))
    return found


def from_log(value: float) -> float:
    """Undo :func:`to_log`, to the six digits that a logarithm in float32 holds."""
    return float(f"{math.copysign(math.expm1(min(abs(value), LARGEST_LOG)), value):.6g}")


@dataclass(frozen=True, slots=True)
class Features:
    """``num`` float32 ``[n, F]`` with ``NaN`` where missing, ``cat`` int32 codes ``[n, C]``."""

    num: NDArray[np.float32]
    cat: Codes


class Encoder:
    """Encodes the records of one partition of a stream.

    ``rows`` holds the last value and time of each key, for features that refer to the record
    before; nothing where there are none. The codes that it remembers, and the templates that a
    model gave it, are no part of its state.
    """

    def __init__(self, stream: Stream) -> None:
        self._matcher = TemplateMatcher()
        self._codes = [CodeCache() for _ in stream.of_type("category")]
        self._transforms = [stream.fields[n].transform for n in stream.of_type("number")]
        self._derive = stream.derive
        self._stateful = GAP in stream.derive or bool(
            {"difference", "rate"} & set(self._transforms)
        )
        last = {"time": np.empty(0, np.int64), "numbers": np.empty((0, len(self._transforms)))}
        self.rows = Rows(last, {"time": -1, "numbers": np.nan}) if self._stateful else Rows()

    def __call__(self, records: Records, groups: Groups) -> Features:
        """Encode the records of a fetch, grouped by key."""
        numbers = records.numbers
        columns = [numbers[:, i] for i in range(numbers.shape[1])]
        before, elapsed = numbers, np.full(len(records), np.nan)
        if self._stateful and len(records):
            before, elapsed = self._previous(records, groups)
        first = np.isnan(elapsed)  # nothing to differ from
        for i, transform in enumerate(self._transforms):
            if transform == "log1p":
                columns[i] = to_log(columns[i])
            elif transform != "none":
                with np.errstate(over="ignore"):  # what is beyond all bounds is cut off below
                    change = columns[i] - np.where(first, columns[i], before[:, i])
                    by = np.maximum(elapsed, 1e-3) if transform == "rate" else 1.0
                    columns[i] = np.where(first, change, change / by)
        if GAP in self._derive:
            columns.append(to_log(np.maximum(elapsed, 0.0)))
        if "time_of_day" in self._derive:
            angle = (records.time % DAY) * (2 * np.pi / DAY)
            columns += [np.sin(angle), np.cos(angle)]
        codes = [cache(c) for cache, c in zip(self._codes, records.categories, strict=True)]
        codes += [self._matcher.codes(lines) for lines in records.texts]
        n = len(records)
        num = np.stack(columns, axis=1) if columns else np.empty((n, 0))
        return Features(
            np.clip(num, -LARGEST, LARGEST).astype(np.float32),
            np.stack(codes, axis=1) if codes else np.empty((n, 0), dtype=np.int32),
        )

    def use_templates(self, templates: Sequence[str]) -> None:
        """Match log lines against these templates from now on."""
        self._matcher = TemplateMatcher(templates)

    def _previous(self, records: Records, groups: Groups) -> tuple[Floats, Floats]:
        """Return each record's predecessor in its key, and the seconds since; ``NaN`` without."""
        self.rows.reach(int(groups.slot.max()) + 1)
        last_time, last_numbers = self.rows["time"], self.rows["numbers"]
        order, first = groups.order, groups.start
        time: Ints = records.time[order]
        numbers = records.numbers[order]
        earlier = np.roll(time, 1)
        before = np.roll(numbers, 1, axis=0)
        earlier[first] = last_time[groups.slot]
        before[first] = last_numbers[groups.slot]
        elapsed = np.where(earlier < 0, np.nan, (time - earlier) / 1e9)
        last = groups.start + groups.count - 1
        last_time[groups.slot] = time[last]
        last_numbers[groups.slot] = numbers[last]
        out_before, out_elapsed = np.empty_like(before), np.empty_like(elapsed)
        out_before[order], out_elapsed[order] = before, elapsed
        return out_before, out_elapsed
