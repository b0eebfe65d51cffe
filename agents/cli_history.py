"""``eddy fit`` and ``eddy replay``: history in, models and scores out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from agents.decode import Decoder
from agents.fitting import build_history, fit_route
from agents.history import topic_fetches
from agents.measure import Measure
from agents.options import echo_json, json_option, pick_stream, pipeline_argument
from agents.pipeline import Pipeline
from agents.registry import Registry
from agents.replay import Report, replay, stream_fetches
from connectors.base import Fetch
from connectors.files import FileSink
from connectors.storage import Storage
from detectors import Budget
from detectors.device import pick_device
from schemas.config import Pipeline as Config
from schemas.errors import DataError

_INPUT = click.option(
    "--input", "-i", "paths", multiple=True, help="File or glob: JSONL, CSV, Parquet, log text."
)
_STREAM = click.option("--stream", help="Stream of the pipeline; needed if it has several.")
_TIME = click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"))
_LABEL = click.option("--label", help="Field that holds labels; it is never a feature.")


def progress() -> Progress:
    """Make a progress bar on standard error, where it does not get into results."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} records"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


@click.command()
@pipeline_argument
@_INPUT
@_STREAM
@_LABEL
@click.option("--from-topic", is_flag=True, help="Read the stream's topic instead of files.")
@click.option("--from", "since", type=_TIME, help="With --from-topic: no older records (UTC).")
@click.option("--to", "until", type=_TIME, help="With --from-topic: only older records (UTC).")
@click.option("--seed", default=0, show_default=True, help="Every random choice follows from it.")
@click.option("--seconds", type=float, help="Stop training after so long.")
@json_option
def fit(
    config: Config,
    paths: tuple[str, ...],
    stream: str | None,
    label: str | None,
    from_topic: bool,
    since: datetime | None,
    until: datetime | None,
    seed: int,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Fit the first models of a stream on its history, and make them champions.

    \b
    Examples:
      eddy fit examples/flows.yaml --input history.jsonl.gz
      eddy fit examples/transactions.yaml --from-topic --from 2026-03-01 --to 2026-04-01
      eddy fit examples/transactions.yaml -i 'day-*.parquet' --label is_fraud
    """  # noqa: D301 (click keeps the lines after a real backspace as they are)
    name = pick_stream(config, stream)
    if bool(paths) == from_topic:
        msg = "give either --input FILE or --from-topic"
        raise click.UsageError(msg)
    if paths and (since or until):
        msg = "--from and --to choose records of a topic: add --from-topic, or leave them out"
        raise click.UsageError(msg)
    decoder = Decoder(
        name, config.streams[name], config.limits, label, None if from_topic else time.time_ns()
    )
    source: Iterable[list[Fetch]]
    if from_topic:
        source = topic_fetches(config, name, _as_ns(since), _as_ns(until))
    else:
        source = stream_fetches(config, name, decoder, paths, config.partitions)
    registry, fitted = Registry(Storage(config.storage)), []
    with progress() as bar:
        task = bar.add_task(f"reading {name}", total=None)
        records, letters = [], 0
        for batch in source:
            for fetch in batch:
                decoded = decoder(fetch)
                records.append(decoded.records)
                letters += len(decoded.dead_letters)
            bar.advance(task, sum(len(fetch) for fetch in batch))
        if not sum(map(len, records)):
            msg = f"{name}: no usable record in the history ({letters} unusable); check the fields"
            raise DataError(msg)
        bar.update(task, description="windowing")
        history = build_history(config.streams[name], records)
        for route in config.streams[name].routes:
            bar.update(task, description=f"fitting {route.label}")
            model = fit_route(
                name,
                config.streams[name],
                route,
                history,
                seed=seed,
                device=pick_device(config.scoring.device),
                budget=Budget(seconds=seconds),
            )
            registry.save(model)
            registry.promote(name, route.label, model.model_id)
            fitted.append(
                {
                    "stream": name,
                    "route": route.label,
                    "model_id": model.model_id,
                    "windows": model.detector.report.windows,
                    "calibration": len(model.calibration["full"]),
                    "unusable_records": letters,
                }
            )
    if as_json:
        echo_json(fitted)
        return
    for found in fitted:
        click.echo(
            f"{found['stream']}/{found['route']}: model {found['model_id']}, fitted on "
            f"{found['windows']:,} windows, calibrated on {found['calibration']:,}; "
            f"{found['unusable_records']:,} records could not be used"
        )


def _as_ns(time: datetime | None) -> int | None:
    return None if time is None else int(time.replace(tzinfo=UTC).timestamp()) * 10**9


@click.command(name="replay")
@pipeline_argument
@_INPUT
@_STREAM
@_LABEL
@click.option("--output", type=click.Path(dir_okay=False), help="Scored events, as JSON lines.")
@click.option("--dead-letters", type=click.Path(dir_okay=False), help="Dead letters, likewise.")
@click.option("--report", type=click.Path(dir_okay=False), help="Write the report, as JSON.")
@click.option("--partitions", type=click.IntRange(1), help="[default: the pipeline's]")
@json_option
def replay_command(
    config: Config,
    paths: tuple[str, ...],
    stream: str | None,
    label: str | None,
    output: str | None,
    dead_letters: str | None,
    report: str | None,
    partitions: int | None,
    as_json: bool,
) -> None:
    """Run files through the pipeline, exactly as a worker would have judged them.

    With --label the report also tells how well scores rank (ROC AUC, average precision, best F1,
    VUS-PR), how good the verdicts were, and how soon labelled events were noticed.

    \b
    Examples:
      eddy replay examples/flows.yaml --input today.jsonl --output scored.jsonl
      eddy replay examples/transactions.yaml -i march.parquet --label is_fraud --report march.json
    """  # noqa: D301
    name = pick_stream(config, stream)
    if not paths:
        msg = "--input: give at least one file"
        raise click.UsageError(msg)
    if partitions is not None:
        config = msgspec.structs.replace(config, partitions=partitions)
    pipeline = Pipeline(config, time.time_ns, label=label, rekeyed=False, now=time.time_ns())
    routes = [(name, route.label) for route in config.streams[name].routes]
    registry = Registry(Storage(config.storage))
    device = pick_device(config.scoring.device)
    for (_, route), model in registry.champions(routes, device=device).items():
        pipeline.apply(name, route, model)
    sinks = []
    for path in filter(None, (output, dead_letters)):
        Path(path).unlink(missing_ok=True)  # a sink appends; a replay starts afresh
    if output is not None:
        sinks.append(FileSink(output, [pipeline.topics.scored(name)]))
    if dead_letters is not None:
        sinks.append(FileSink(dead_letters, [pipeline.topics.dead_letters]))
    with progress() as bar:
        task = bar.add_task(f"replaying {name}", total=None)
        found = replay(
            pipeline,
            stream_fetches(config, name, pipeline.decoders[name], paths, config.partitions),
            sinks,
            measure=None if label is None else Measure(),
            progress=lambda records: bar.advance(task, records),
        )
    for sink in sinks:
        sink.close()
    if report is not None:
        Path(report).write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    if as_json:
        echo_json(found)
    else:
        _show(found)


def _show(found: Report) -> None:
    click.echo(
        f"{found.records_in:,} records = {found.windowed:,} windowed + {found.late:,} late + "
        f"{found.duplicates:,} duplicate + {found.dead_letters:,} dead-letter + "
        f"{found.filtered:,} filtered"
    )
    click.echo(
        f"{found.windows:,} windows, {found.scored:,} scored, {found.unscored:,} unscored, "
        f"{found.anomalies:,} anomalies, {found.incidents:,} incidents "
        f"({found.suppressed:,} anomalies over budget), {found.retrain_requests} retrain requests"
    )
    click.echo(f"{found.seconds:.1f} s, {found.records_per_second:,.0f} records/s")
    for route, values in found.metrics.items():
        click.echo(f"{route}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
