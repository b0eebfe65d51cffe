"""Labels of windows, from the labels of their records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agents.records import Records
from agents.window import Windows

UNKNOWN = -1


def window_labels(windows: Windows, records: Sequence[Records]) -> NDArray[np.int8]:
    """Label ``[W]`` windows: by the last record for sliding windows, by any record for others.

    ``records`` are the fetch that the windows end in, for windows of records, else all records
    that they may hold.
    """
    if windows.row is not None:
        marks = records[0].labels
        if marks is None:
            return np.full(len(windows), UNKNOWN, dtype=np.int8)
        return marks[windows.row]
    known = [part for part in records if part.labels is not None and len(part)]
    if not known or not len(windows):
        return np.full(len(windows), UNKNOWN, dtype=np.int8)
    return _any_record(windows, known)


def _any_record(windows: Windows, records: Sequence[Records]) -> NDArray[np.int8]:
    spans: dict[str, list[tuple[int, int, int]]] = {}
    for part in records:
        marks = part.labels
        if marks is None:
            continue
        for index in np.flatnonzero(marks == 1).tolist():
            position = (int(part.offset[index]), int(part.time[index]), part.partition.number)
            spans.setdefault(part.key[index], []).append(position)
    labels = np.zeros(len(windows), dtype=np.int8)
    first, last = windows.first_offset.tolist(), windows.last_offset.tolist()
    start, end = windows.start.tolist(), windows.end.tolist()
    for index, key in enumerate(windows.key):
        labels[index] = any(
            first[index] <= offset <= last[index] and start[index] <= time <= end[index]
            for offset, time, _ in spans.get(key, ())
        )
    return labels
