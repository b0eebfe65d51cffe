"""Windows/s of a deep detector beside the bare network that it holds."""

from __future__ import annotations

import msgspec

from agents.bench.machine import machine
from detectors.bench import lstm_ae_rates


class Scoring(msgspec.Struct, frozen=True, kw_only=True):
    """Medians in windows/s; see :func:`detectors.bench.lstm_ae_rates`."""

    bare: float
    detector: float
    windows: int
    repeats: int
    machine: str


def measure_scoring(windows: int, repeats: int) -> Scoring:
    """Score in turn with the bare network."""
    rates = lstm_ae_rates(windows, repeats)
    return Scoring(**rates._asdict(), windows=windows, repeats=repeats, machine=machine())
