"""Event times of any declared unit as ns since 1970 UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.records import Ints
from schemas.config import Time

MISSING_TIME = 1
BAD_TIME = 2
_SCALE = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_LATEST = 2**62  # year 2116: leaves room for adding durations without overflow
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def shown(time: int) -> str:
    """Write a time in ns since 1970 UTC for people, to the second."""
    return datetime.fromtimestamp(time // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def parse_times(
    config: Time, raw: Sequence[Any] | None, log_time: Ints
) -> tuple[Ints, NDArray[np.int8]]:
    """Convert ``n`` times.

    Returns
    -------
    times
        ``[n]`` ns since 1970 UTC, 0 where there is a problem.
    problems
        ``[n]`` 0, or ``MISSING_TIME``, or ``BAD_TIME``.
    """
    if raw is None:
        return log_time.copy(), np.zeros(len(log_time), dtype=np.int8)
    if config.unit == "iso" or config.format is not None:
        values = [_from_text(config.format, value) for value in raw]
    else:
        fast = _from_integers(raw, _SCALE[config.unit])
        if fast is not None:
            return fast, np.zeros(len(fast), dtype=np.int8)
        values = [_from_number(value, _SCALE[config.unit]) for value in raw]
    problems = np.array([v if -2 <= v < 0 else 0 for v in values], dtype=np.int64)
    times = np.array([max(v, 0) for v in values], dtype=np.int64)
    return times, (-problems).astype(np.int8)


def _from_integers(raw: Sequence[Any], scale: int) -> Ints | None:
    """Convert at once if all are whole numbers in range, which is the normal case."""
    if not all(type(value) is int for value in raw):
        return None
    try:
        array = np.fromiter(raw, np.int64, len(raw))
    except OverflowError:
        return None
    if len(array) and (array.min() < 0 or array.max() > _LATEST // scale):
        return None
    return array * scale


def _from_number(value: Any, scale: int) -> int:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return -BAD_TIME
    if value is None or value != value:
        return -MISSING_TIME
    if not 0 <= value <= _LATEST // scale:
        return -BAD_TIME
    return value * scale if isinstance(value, int) else round(value * scale)


def _from_text(form: str | None, value: Any) -> int:
    if value is None or value == "":
        return -MISSING_TIME
    try:
        parsed = (
            datetime.strptime(str(value), form)  # noqa: DTZ007 - UTC is put in below
            if form
            else datetime.fromisoformat(str(value))
        )
    except ValueError:
        return -BAD_TIME
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    delta = parsed - _EPOCH
    ns = (delta.days * 86400 + delta.seconds) * 10**9 + delta.microseconds * 1000
    return ns if 0 <= ns <= _LATEST else -BAD_TIME
