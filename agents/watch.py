"""watch: has the stream changed for good? Inputs and scores, followed by drift detectors.

Levels of blocks of windows, measured against those of the model's calibration windows, are
followed by river's ADWIN (Bifet & Gavaldà 2007) and
Page-Hinkley (Page 1954). A drift is confirmed when both have spoken within a few blocks of each
other, since each of them alone cries wolf on its own kind of noise; for the score KSWIN (Raab et
al. 2020), which is too slow to follow along, is asked where only one of them has spoken.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan

import numpy as np
from river import drift

from agents.records import Floats
from agents.snapshot import State, copied, put_back
from detectors.model import Model
from detectors.signals import BLOCK, SCORE, Reference, block_levels, signals
from detectors.windows import WindowArrays
from schemas.config import Drift

NOT_WATCHED = ("gap", "time_of_day_sin", "time_of_day_cos")  # they go round by themselves
AGREE_WITHIN = 8
FARTHEST = 20.0
REMEMBERED = 1024
KS_WINDOW = 60
KS_NEWEST = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """A confirmed drift: of what, and the level that showed it against the usual one.

    ``changed_at`` is the event time, in ns, since when the new level seems to hold, and ``blocks``
    how many blocks that is.
    """

    signal: str
    statistic: float
    reference: float
    changed_at: int
    blocks: int


class _Signal:
    """One followed level, standardised by how it lay on the model's calibration windows.

    The state of the tests is the levels that they were fed. So that these stay few, the tests
    begin anew with the newest of them now and then: by count, so always after the same level.
    """

    def __init__(self, name: str, reference: Reference, blocks_between_alarms: float) -> None:
        self.name, self._reference = name, reference
        # each test errs at most once in the wished-for number of blocks, and two must agree
        self._delta = min(0.05, max(1.0 / blocks_between_alarms, 1e-6))
        self._blocks = 0
        self._times: list[int] = []
        self._levels: list[float] = []
        # the history is what changes are measured against, so let the tests see some of it
        self._before = np.random.default_rng(0).normal(size=30).tolist()
        self._feed()
        self._spoke = [-(10**9)] * len(self._tests)

    def update(self, value: float, time: int) -> Finding | None:
        """Take in the level of a block that ended at ``time``."""
        if len(self._levels) >= 2 * REMEMBERED:
            self._times, self._levels = self._times[-REMEMBERED:], self._levels[-REMEMBERED:]
            self._feed()
        self._blocks += 1
        reference = self._reference
        standard = (value - reference.mean) / reference.spread
        standard = min(max(standard, -FARTHEST), FARTHEST)
        self._times.append(time)
        self._levels.append(standard)
        for index, test in enumerate(self._tests):
            test.update(standard)
            if test.drift_detected:
                self._spoke[index] = self._blocks
        voices = sum(self._blocks - at < AGREE_WITHIN for at in self._spoke)
        if voices == 1 and self.name == SCORE:
            voices += self._others()
        if voices < 2:
            return None
        self._spoke = [-(10**9)] * len(self._tests)
        return Finding(self.name, value, reference.mean, *self._changed_at())

    def state(self) -> State:
        return {
            "blocks": self._blocks,
            "spoke": self._spoke.copy(),
            "times": np.array(self._times, dtype=np.int64),
            "levels": np.array(self._levels, dtype=np.float64),
        }

    def restore(self, state: State) -> None:
        self._blocks, self._spoke = state["blocks"], list(state["spoke"])
        self._times, self._levels = state["times"].tolist(), state["levels"].tolist()
        self._feed()

    def _feed(self) -> None:
        """Make the tests, and let them see what has been; what they say of it is old news."""
        self._tests = [
            drift.ADWIN(delta=self._delta, clock=1, grace_period=5, min_window_length=3),
            drift.PageHinkley(min_instances=5, delta=0.5, threshold=-2.0 * np.log(self._delta)),
        ]
        for level in [*self._before, *self._levels]:
            for test in self._tests:
                test.update(level)

    def _others(self) -> bool:
        """Ask KSWIN whether the newest levels have another distribution than those before."""
        levels = [*self._before, *self._levels][-KS_WINDOW:]
        test = drift.KSWIN(
            alpha=self._delta / 4,
            window_size=KS_WINDOW,
            stat_size=KS_NEWEST,
            seed=0,
            window=levels[:-1],
        )
        test.update(levels[-1])
        return bool(test.drift_detected)

    def _changed_at(self) -> tuple[int, int]:
        """Find since when the level has been another: least squares with one break (Bai 1994).

        Returns its time, and how many blocks ago that was.
        """
        times, levels = self._times[-REMEMBERED:], self._levels[-REMEMBERED:]
        values = np.array([0.0, *levels])  # before all this the level was that of the reference
        before = np.arange(1, len(values))
        total = np.cumsum(values)
        gap = total[:-1] / before - (total[-1] - total[:-1]) / (len(values) - before)
        first = int(np.argmax(gap**2 * before * (len(values) - before)))
        return times[max(first - 1, 0)], len(times) - first


class Watcher:
    """Drift detection of one route in one partition; starts afresh with every model."""

    _STATE = ("_waiting", "_settling", "_last_request")

    def __init__(self, config: Drift, model: Model) -> None:
        self._config = config
        names = [SCORE, *model.description.layout.numbers]
        reference = model.description.reference
        between = config.false_alarm_every * len(reference) / BLOCK
        self._signals = {
            index: _Signal(name, reference[name], between)
            for index, name in enumerate(names)
            if name in reference and name not in NOT_WATCHED
        }
        self._waiting = np.empty((0, len(names)))
        self._found: Finding | None = None
        self._settling = 0
        self._last_request: int | None = None

    def __call__(self, windows: WindowArrays, scores: Floats) -> list[tuple[Finding, int]]:
        """Take in consecutive windows; return drifts to act upon, and at what event time."""
        if not self._config.enabled or not len(windows):
            return []
        values = np.concatenate([self._waiting, signals(windows, scores)])
        blocks = len(values) // BLOCK
        ends = windows.time[len(windows) - len(values) + BLOCK * np.arange(1, blocks + 1) - 1]
        self._waiting = values[blocks * BLOCK :]
        levels = block_levels(values[: blocks * BLOCK].reshape(blocks, BLOCK, values.shape[1]))
        found: list[tuple[Finding, int]] = []
        for level, end in zip(levels.tolist(), ends.tolist(), strict=True):
            found += self._end_block(level, end)
        return found

    def state(self) -> State:
        """Copy the state."""
        return {
            **copied(self, self._STATE),
            "found": None if self._found is None else asdict(self._found),
            "signals": [signal.state() for signal in self._signals.values()],
        }

    def restore(self, state: State) -> None:
        """Go on from a state that was made with the same model."""
        put_back(self, self._STATE, state)
        self._found = None if state["found"] is None else Finding(**state["found"])
        for signal, saved in zip(self._signals.values(), state["signals"], strict=True):
            signal.restore(saved)

    def _end_block(self, levels: list[float], time: int) -> list[tuple[Finding, int]]:
        findings = []
        for index, signal in self._signals.items():
            finding = None if isnan(levels[index]) else signal.update(levels[index], time)
            if finding is not None:
                findings.append(finding)
        self._settling -= 1
        if self._found is None and findings:
            self._found = findings[0]
            self._settling = self._config.settle // BLOCK - self._found.blocks
        cooling = self._last_request is not None and (
            time - self._last_request < int(self._config.cooldown)
        )
        if self._found is None or self._settling > 0 or cooling:
            return []
        found, self._found = self._found, None
        self._last_request = time
        return [(found, time)]
