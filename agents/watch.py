"""watch: has the stream changed for good? Inputs and scores, followed by drift detectors.

Medians over blocks of windows are followed by river's ADWIN (Bifet & Gavaldà 2007) and
Page-Hinkley (Page 1954), those of the score by KSWIN (Raab et al. 2020) as well, which is too slow
for every input. A drift is confirmed when two tests have spoken within a few blocks of each
other: each of them alone cries wolf on its own kind of noise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from river import drift

from agents.records import Floats, Ints
from agents.window import Windows
from schemas.config import Drift
from schemas.messages import RetrainRequest

SCORE = "score"
BLOCK = 512
AGREE_WITHIN = 8
WARM_UP = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """A confirmed drift: of what, and the mean that showed it against the mean before."""

    signal: str
    statistic: float
    reference: float


class _Signal:
    """One followed mean, standardised by what its first blocks showed."""

    def __init__(self, name: str, windows_between_alarms: int, *, with_kswin: bool) -> None:
        self.name = name
        # each test errs at most once in the wished-for number of blocks, and two must agree
        delta = min(0.05, max(BLOCK / windows_between_alarms, 1e-6))
        self._tests = [
            drift.ADWIN(delta=delta, clock=1, grace_period=5, min_window_length=5),
            drift.PageHinkley(min_instances=WARM_UP, delta=0.25, threshold=-4.0 * np.log(delta)),
        ]
        if with_kswin:
            self._tests.append(drift.KSWIN(alpha=delta / 4, window_size=60, stat_size=20, seed=0))
        self._spoke = [-(10**9)] * len(self._tests)
        self._first: list[float] = []
        self._blocks = 0

    def update(self, value: float) -> Finding | None:
        self._blocks += 1
        if len(self._first) < WARM_UP:
            self._first.append(value)
            return None
        reference = float(np.mean(self._first))
        spread = max(float(np.std(self._first)), 1e-3 * (1.0 + abs(reference)))
        standard = float(np.clip((value - reference) / spread, -20.0, 20.0))
        for index, test in enumerate(self._tests):
            test.update(standard)
            if test.drift_detected:
                self._spoke[index] = self._blocks
        if sum(self._blocks - at < AGREE_WITHIN for at in self._spoke) < 2:
            return None
        self._spoke = [-(10**9)] * len(self._tests)
        return Finding(self.name, value, reference)


class Watcher:
    """Drift detection of one route in one partition; starts afresh with every model."""

    def __init__(self, config: Drift, names: list[str], calibration: Floats) -> None:
        self._config = config
        log = _log_scores(calibration)
        self._centre = float(np.median(log))
        self._spread = max(float(np.percentile(log, 90) - np.percentile(log, 10)), 1e-9)
        self._signals = [
            _Signal(name, config.false_alarm_every * (len(names) + 1), with_kswin=name is SCORE)
            for name in [SCORE, *names]
        ]
        self._rows: list[Floats] = []
        self._waiting = 0
        self._last_request: int | None = None

    def __call__(
        self, windows: Windows, scores: Floats, times: Ints, watched: list[int]
    ) -> list[tuple[Finding, int]]:
        """Take in consecutive windows; return confirmed drifts with their event times.

        ``watched`` are the columns of the numeric features that were named at the start.
        """
        if not self._config.enabled or not len(windows):
            return []
        standard = np.clip((_log_scores(scores) - self._centre) / self._spread, -5.0, 5.0)
        last = windows.num[np.arange(len(windows)), windows.length - 1][:, watched]
        values = np.concatenate([standard[:, None], last.astype(np.float64)], axis=1)
        found = []
        at = 0
        while at < len(values):
            take = min(BLOCK - self._waiting, len(values) - at)
            self._rows.append(values[at : at + take])
            self._waiting += take
            at += take
            if self._waiting == BLOCK:
                found += self._end_block(int(times[at - 1]))
        return found

    def _end_block(self, time: int) -> list[tuple[Finding, int]]:
        block = np.concatenate(self._rows)
        self._rows, self._waiting = [], 0
        findings = []
        # the median of a block hardly feels the anomalies in it; a drift moves it
        present: NDArray[np.bool_] = np.asarray(~np.isnan(block).all(axis=0))
        medians = np.nanmedian(np.where(present, block, 0.0), axis=0)
        for signal, median, there in zip(self._signals, medians, present, strict=True):
            finding = signal.update(float(median)) if there else None
            if finding is not None:
                findings.append(finding)
        if not findings:
            return []
        cooling = self._last_request is not None and (
            time - self._last_request < int(self._config.cooldown)
        )
        if cooling:
            return []
        self._last_request = time
        return [(findings[0], time)]


def _log_scores(scores: Floats) -> Floats:
    """Compress scores, whose scale is each detector's own; negative ones keep their order."""
    return np.sign(scores) * np.log1p(np.abs(scores))


def drift_request(
    stream: str, route: str, model_id: str, finding: Finding, time: int, data_from: int
) -> RetrainRequest:
    """Make the request for a confirmed drift; that of another partition has the same id."""
    return RetrainRequest(
        request_id=request_id(stream, route, model_id, "drift"),
        stream=stream,
        route=route,
        reason="drift",
        detail=f"{finding.signal} moved from {finding.reference:.6g} to {finding.statistic:.6g}",
        statistic=finding.statistic,
        threshold=finding.reference,
        data_from=data_from,
        data_to=time,
        model_id=model_id,
        requested_at=time,
    )


def request_id(stream: str, route: str, model_id: str | None, reason: str) -> str:
    """Hash what makes two requests the same wish."""
    text = f"retrain\0{stream}\0{route}\0{model_id}\0{reason}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
