"""Windows/s of detectors, beside the bare network that one holds, and beside twins in pyod."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import numpy as np
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from agents.bench import peers
from agents.bench.machine import machine
from detectors.bench import (
    FIT_ON,
    Speed,
    few_labels,
    lstm_ae_rates,
    prepared,
    side_by_side,
    speed_of,
)
from detectors.device import on_one_core

BACKLOG, FEW = 8192, 256
"""Records that twins score at once; few where each takes many steps."""


class Twins(msgspec.Struct, frozen=True, kw_only=True):
    """Median windows/s of a detector and of the same method in pyod, which took turns."""

    detector: str
    peer: str
    ours: float
    theirs: float
    windows: int


class Scoring(msgspec.Struct, frozen=True, kw_only=True):
    """Medians in windows/s; see :func:`detectors.bench.lstm_ae_rates` and :func:`speed_of`."""

    bare: float
    detector: float
    windows: int
    repeats: int
    machine: str
    device: str
    detectors: list[Speed]
    twins: list[Twins]


def measure_scoring(
    windows: int,
    repeats: int,
    names: Sequence[str],
    say: Callable[[str], None],
    device: str,
    *,
    twins: bool,
) -> Scoring:
    """Score in turn with the bare network, on the CPU; then time each of some detectors.

    On a CPU all of it happens on one core. With ``twins``, those that pyod has as well take turns
    with it.
    """
    on_one_core()
    with threadpool_limits(1):
        rates = lstm_ae_rates(windows, repeats)
        speeds = []
        for name in names:
            say(name)
            speeds.append(speed_of(name, repeats, device=device))
        pairs = [peer for peer in peers.TWINS if twins and peer.twin in names]
        found = [beside_twin(peer, repeats, say) for peer in pairs]
    return Scoring(
        **rates._asdict(),
        windows=windows,
        repeats=repeats,
        machine=machine(),
        device=device,
        detectors=speeds,
        twins=found,
    )


def beside_twin(peer: peers.Peer, repeats: int, say: Callable[[str], None]) -> Twins:
    """Let a detector and its twin score the same records in turn, both as they come, on the CPU."""
    name = f"StandardScaler and {peer.name}" if peer.scaled else peer.name
    say(f"{peer.twin} beside pyod {name}")
    ours = prepared(peer.twin, **peer.equal)
    n, known = (FEW, FEW) if ours.detector.caps.cost == "iterative" else (BACKLOG, FIT_ON)
    rows = ours.windows(known).num[:, 0].double().numpy()
    scale = StandardScaler().fit(rows).transform if peer.scaled else np.asarray
    theirs = peer.create(0, rows.shape[1], brief=True)
    labels = few_labels(ours.detector.caps)
    peers.fit(theirs, scale(rows), None if labels is None else labels == 1)
    batch = ours.windows(n)
    rows = batch.num[:, 0].double().numpy()
    calls: list[Callable[[], object]] = [
        partial(ours.score, batch),
        lambda: peers.scores(theirs, scale(rows)),
    ]
    seconds = side_by_side(calls, repeats)
    rates = [n / s for s in seconds]
    return Twins(detector=peer.twin, peer=name, ours=rates[0], theirs=rates[1], windows=n)
