"""Benchmarks measure what they say; how fast it is, no test may depend on."""

from __future__ import annotations

import pytest

from detectors import CATALOGUE, detector_class
from detectors.bench import speed_of


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_detector_can_be_timed(name: str) -> None:
    speed = speed_of(name, 1, sizes=(1, 16))
    assert list(speed.rates) == [1, 16]
    assert min(speed.rates.values()) > 0
    assert ("record" in speed.window) == ("record" in detector_class(name).caps.kinds)
