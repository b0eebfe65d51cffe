"""What a method makes of a case."""

from __future__ import annotations

from typing import NamedTuple

from agents.bench.accuracy.case import Floats


class Outcome(NamedTuple):
    """Scores ``[m]`` of what was tested, what they took, and why learning ended."""

    scores: Floats
    fit_seconds: float
    score_seconds: float
    stopped: str
