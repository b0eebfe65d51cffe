"""Replaying history: the same pipeline over files, with a report at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from agents.account import Ledger
from agents.decode import Decoder
from agents.history import file_fetches
from agents.judge import Result
from agents.measure import Measure
from agents.pipeline import Pipeline
from connectors.base import Fetch, Sink, flatten
from schemas.config import Pipeline as Config


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay counted; the names are stable.

    ``metrics`` holds, for each route, what :meth:`agents.measure.Measure.results` tells.
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
        outputs = flatten(result.outputs)
        requests += sum(o.topic == pipeline.topics.retrain for o in outputs)
        for sink in sinks:
            sink.write(outputs)

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
