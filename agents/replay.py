"""Replaying history: the same pipeline over files, with a report at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np

from agents.account import Ledger
from agents.decode import Decoder
from agents.history import file_fetches
from agents.judge import Result
from agents.labels import window_labels
from agents.metrics import detection_metrics
from agents.partition import PartitionState
from agents.pipeline import Pipeline
from agents.publish import Judged
from agents.records import Records
from connectors.base import Fetch, Partition, Sink
from schemas.config import Pipeline as Config


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay counted; the names are stable.

    ``metrics`` holds, for each route, the measures of :func:`agents.metrics.detection_metrics`.
    """

    records_in: int
    windowed: int
    late: int
    duplicates: int
    dead_letters: int
    filtered: int
    windows: int
    scored: int
    unscored: int
    anomalies: int
    incidents: int
    suppressed: int
    revisions: int
    retrain_requests: int
    seconds: float
    records_per_second: float
    metrics: dict[str, dict[str, float]]


class Measure:
    """Collects the scores and labels of every window, published or not."""

    def __init__(self) -> None:
        self._parts: dict[str, list[tuple[Judged, np.ndarray]]] = {}
        self._records: dict[str, list[Records]] = {}

    def saw(self, records: Records, stream: str) -> None:
        """Remember the labels of records, for windows that end in a later fetch."""
        self._records.setdefault(stream, []).append(records)

    def __call__(self, state: PartitionState, route: str, judged: Judged) -> None:
        """Remember what was decided."""
        known = [judged.records] if judged.windows.row is not None and judged.records else None
        if known is None:
            known = [r for r in self._records.get(state.name, ()) if r.partition == state.partition]
        labels = window_labels(judged.windows, known)
        self._parts.setdefault(f"{state.name}/{route}", []).append((judged, labels))

    def results(self) -> dict[str, dict[str, float]]:
        """Measure each route."""
        results = {}
        for route, parts in self._parts.items():
            last = _last_revisions([judged for judged, _ in parts])
            results[route] = detection_metrics(
                np.concatenate([labels for _, labels in parts])[last],
                np.concatenate([judged.scores for judged, _ in parts])[last],
                np.concatenate([judged.verdicts.is_anomaly for judged, _ in parts])[last],
            )
        return results


def _last_revisions(parts: Sequence[Judged]) -> np.ndarray:
    """Mark the windows that no later one replaces or retracts."""
    last = np.ones(sum(len(judged.windows) for judged in parts), dtype=bool)
    found: dict[tuple[Partition, str, str], int] = {}
    at = 0
    for judged in parts:
        windows = judged.windows
        if windows.identity is not None and windows.retracted is not None:
            names = zip(windows.key, windows.identity, strict=True)
            for index, name in enumerate(names, at):
                before = found.get((judged.partition, *name))
                if before is not None:
                    last[before] = False
                found[judged.partition, *name] = index
            last[at : at + len(windows)] &= ~windows.retracted
        at += len(windows)
    return last


def replay(
    pipeline: Pipeline,
    fetches: Iterable[list[Fetch]],
    sinks: Sequence[Sink],
    *,
    measure: Measure | None = None,
    progress: Callable[[int], None] = lambda records: None,
) -> Report:
    """Drive a pipeline with fetches until they end; write its outputs; report."""
    began = time.perf_counter()
    requests = 0

    def take(result: Result) -> None:
        nonlocal requests
        requests += sum(o.topic == pipeline.topics.retrain for o in result.outputs)
        for sink in sinks:
            sink.write(result.outputs)

    pipeline.observe = measure
    for batch in fetches:
        take(pipeline.process(batch))
        progress(sum(len(fetch) for fetch in batch))
    take(pipeline.finish())
    seconds = time.perf_counter() - began
    total = Ledger()
    for ledger in pipeline.totals().values():
        total += ledger
    counts = {k: v for k, v in asdict(total).items() if not k.endswith("_offset")}
    return Report(
        duplicates=counts.pop("duplicate"),
        dead_letters=counts.pop("dead_letter"),
        retrain_requests=requests,
        seconds=seconds,
        records_per_second=total.records_in / max(seconds, 1e-9),
        metrics={} if measure is None else measure.results(),
        **counts,
    )


def stream_fetches(
    config: Config, name: str, decoder: Decoder, paths: Sequence[str | Path], partitions: int
) -> Iterable[list[Fetch]]:
    """Read the history of one stream as its topic would have delivered it."""
    stream = config.streams[name]
    return file_fetches(
        decoder, stream, stream.source.topic, paths, partitions=partitions, limits=config.limits
    )
