"""Speed of a whole detector beside a bare forward of its network, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detectors.batch import as_batch
from detectors.catalogue import create
from detectors.detector import Budget

STEPS, FEATURES, HIDDEN = 32, 8, 64
FIT_WINDOWS = 512


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
