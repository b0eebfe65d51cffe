"""Log lines of jobs: raw text, keyed by session.

A session is a job: some 8 to 27 lines that follow one of four workflows, spread over a few minutes
and interleaved with the lines of other jobs. Episodes: an error that was never seen before; the
usual lines with steps missing or in the wrong place; a step repeated dozens of times. The drift
turns round how often each workflow runs, and a release brings a fifth one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.synthetic.base import KINDS, LAST_SHARE, Episode, Generated, Generator
from connectors.synthetic.disturb import MOST_REPEATS, disturb
from connectors.synthetic.rhythm import HOURS, MILLISECOND_NS, SECOND_NS, Rhythm, bump
from connectors.synthetic.workflows import NEWER, TEMPLATES, WORKFLOWS

__all__ = ["PATTERN", "Logs"]

PATTERN = (
    r"^(?P<time>\S+) (?P<host>\S+) (?P<level>[A-Z]+) "
    r"(?P<component>[\w.-]+)\[(?P<session>[^\]\s]+)\]: (?P<message>.*)$"
)
"""Reads a line; ``time`` is ISO 8601 in UTC."""

SESSIONS_PER_HOST_AND_DAY = 200.0
PAUSE_NS = 15 * SECOND_NS  # mean time between lines of a session
LONGEST_PAUSE_NS = 120 * SECOND_NS  # so that no session seems to have ended
RUSHED_PAUSE_NS = SECOND_NS // 2

BLOCK = 1024  # sessions

PLAN, LINES, PARAMETERS, EPISODES = 1, 2, 3, 4  # purposes of random generators

# Every way in which a normal session can run, and how often each workflow does.
VARIANTS = list(product((*WORKFLOWS, NEWER), range(1, 7), (False, True)))
SEQUENCES = [np.array(workflow.lines(*options)) for workflow, *options in VARIANTS]
LENGTHS = np.array([len(sequence) for sequence in SEQUENCES])
SHARES_BEFORE = (0.4, 0.3, 0.2, 0.1, 0.0)
SHARES_AFTER = (0.1, 0.1, 0.2, 0.25, 0.35)

MOST_PARAMETERS = max(len(template.bounds) for template in TEMPLATES)


class _Lines(NamedTuple):
    """Lines of some sessions, as equally long arrays."""

    time: NDArray[np.int64]
    session: NDArray[np.int64]
    template: NDArray[np.int64]
    episode: NDArray[np.int32]

    def __getitem__(self, rows: Any) -> _Lines:  # type: ignore[override]
        return _Lines(*(column[rows] for column in self._columns()))
