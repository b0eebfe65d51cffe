"""Speed of detectors: beside a bare forward of the network, and at several sizes of batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detectors.arguments import UNLABELLED
from detectors.batch import WindowBatch, as_batch
from detectors.capabilities import Capabilities
from detectors.catalogue import create
from detectors.detector import Budget, Detector

STEPS, FEATURES, HIDDEN = 32, 8, 64
FIT_WINDOWS = 512
FIT_ON = 2048


class BareLstmAutoencoder(nn.Module):
    """What ``lstm_ae`` computes at least: two LSTMs and a linear map, without mask or loss."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.LSTM(features, hidden, batch_first=True)
        self.decoder = nn.LSTM(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, features)

    def forward(self, num: Tensor) -> Tensor:
        """Return the reconstruction ``[B, T, F]``."""
        _, (code, _) = self.encoder(num)
        unrolled, _ = self.decoder(code[-1][:, None, :].expand(-1, num.shape[1], -1).contiguous())
        rebuilt: Tensor = self.head(unrolled)
        return rebuilt


class Rates(NamedTuple):
    """Medians in windows/s."""

    bare: float
    detector: float


def lstm_ae_rates(windows: int, repeats: int) -> Rates:
    """Score ``windows`` windows of 32 steps and 8 features in one batch, in turn with the bare net.

    ``lstm_ae`` has 64 hidden units and scores from raw numbers to one score a window.
    """
    generator = torch.Generator().manual_seed(0)
    num = torch.randn(windows, STEPS, FEATURES, generator=generator)
    detector = create("lstm_ae", seed=0, hidden=HIDDEN)
    detector.fit(num[:FIT_WINDOWS].numpy(), budget=Budget(steps=20))
    batch = as_batch(num.numpy())
    net = BareLstmAutoencoder(FEATURES, HIDDEN).eval()

    def forward() -> None:
        with torch.inference_mode():
            net(num)

    seconds = side_by_side([forward, lambda: detector.score(batch)], repeats)
    return Rates(*(windows / s for s in seconds))


def side_by_side(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median seconds of each call, which take turns after one that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, found in zip(calls, seconds, strict=True):
            begin = time.perf_counter()
            call()
            if turn:
                found.append(time.perf_counter() - begin)
    return [statistics.median(found) for found in seconds]


class Speed(NamedTuple):
    """Median windows/s of a detector at each size of batch, and what a window is."""

    detector: str
    cost: str
    window: str
    rates: dict[int, float]


SIZES = (1, 256, 8192)
"""Batches that detectors are timed with: alone, a usual micro-batch, a backlog."""


def speed_of(
    name: str, repeats: int, sizes: Sequence[int] = SIZES, *, device: str = "cpu"
) -> Speed:
    """Time a detector with default settings, barely trained, from raw windows to scores.

    Windows come from the CPU and scores go back to it, whatever the device between.

    Windows are records of 64 numbers; where it takes none, series of 32 steps and 8 numbers, 32
    events out of 30, or 6 categories out of 98.
    """
    ready = prepared(name, device)
    batches = [ready.windows(size) for size in sizes]
    calls: list[Callable[[], object]] = [partial(ready.score, batch) for batch in batches]
    seconds = side_by_side(calls, repeats)
    rates = {size: size / s for size, s in zip(sizes, seconds, strict=True)}
    return Speed(name, ready.detector.caps.cost, ready.window, rates)


class Prepared(NamedTuple):
    """A detector to be timed: barely trained, what a window is, and who makes some."""

    detector: Detector
    window: str
    windows: Callable[[int], WindowBatch]

    def score(self, batch: WindowBatch) -> Tensor:
        """Scores ``[B]`` on the CPU."""
        return self.detector.score(batch).score.cpu()


def prepared(name: str, device: str = "cpu", **settings: object) -> Prepared:
    """Fit a detector for a few steps, with default settings where nothing else is said."""
    detector = create(name, seed=0, device=device, **settings)
    window, make = _window_for(detector.caps)
    detector.fit(make(FIT_ON), few_labels(detector.caps), budget=Budget(steps=20))
    return Prepared(detector, window, make)


def few_labels(caps: Capabilities) -> NDArray[np.int64] | None:
    """Labels ``[FIT_ON]`` of 30 windows for a detector that does not fit without."""
    if not caps.min_labels:
        return None
    labels = np.full(FIT_ON, UNLABELLED)
    labels[:30] = 1
    return labels


def _window_for(caps: Capabilities) -> tuple[str, Callable[[int], WindowBatch]]:
    rng = np.random.default_rng(0)
    if "record" in caps.kinds:
        return "record, 64 numbers", lambda n: as_batch(rng.normal(size=(n, 64)))
    if "series" in caps.kinds or "bag" in caps.kinds:
        return "32 x 8 numbers", lambda n: as_batch(rng.normal(size=(n, STEPS, FEATURES)))
    if "events" in caps.kinds:
        return "32 events", lambda n: _categories(rng.integers(2, 32, size=(n, STEPS, 1)), 32)
    if "graphwin" in caps.kinds:
        return "32 edges", lambda n: _categories(rng.integers(2, 32, size=(n, STEPS, 2)), 32)
    return "6 categories", lambda n: _categories(rng.integers(2, 100, size=(n, 1, 6)), 100)


def _categories(ids: NDArray[np.int64], vocab: int) -> WindowBatch:
    n, steps, fields = ids.shape
    mask = torch.ones(n, steps, dtype=torch.bool)
    return WindowBatch(torch.zeros(n, steps, 0), torch.from_numpy(ids), mask, (vocab,) * fields)
