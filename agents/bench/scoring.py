"""Windows/s of detectors, one of them beside the bare network that it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from agents.bench.machine import machine
from detectors.bench import Speed, lstm_ae_rates, speed_of


class Scoring(msgspec.Struct, frozen=True, kw_only=True):
    """Medians in windows/s; see :func:`detectors.bench.lstm_ae_rates` and :func:`speed_of`."""

    bare: float
    detector: float
    windows: int
    repeats: int
    machine: str
    device: str
    detectors: list[Speed]


def measure_scoring(
    windows: int, repeats: int, names: Sequence[str], say: Callable[[str], None], device: str
) -> Scoring:
    """Score in turn with the bare network, on the CPU; then time each of some detectors."""
    rates = lstm_ae_rates(windows, repeats)
    speeds = []
    for name in names:
        say(name)
        speeds.append(speed_of(name, repeats, device=device))
    return Scoring(
        **rates._asdict(),
        windows=windows,
        repeats=repeats,
        machine=machine(),
        device=device,
        detectors=speeds,
    )
