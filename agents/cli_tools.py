"""Small commands about topics, messages, detectors, schemas and models."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import click
import msgspec

from agents.decode import Decoder
from agents.options import echo_json, json_option, pick_stream, pipeline_argument
from agents.pipeline import Pipeline
from agents.registry import Registry
from agents.sampling import sample_stream
from agents.topics import pipeline_topics
from connectors.base import Output
from connectors.files import read_messages
from connectors.kafka.admin import ensure_topics, topic_partitions
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from connectors.storage import Storage, without_credentials
from detectors import CATALOGUE, detector_class
from detectors.capabilities import Capabilities
from schemas import messages
from schemas.config import Pipeline as Config

NS_PER_MS = 1_000_000


@click.command()
@pipeline_argument
@click.option("--create", is_flag=True, help="Create the missing ones.")
@json_option
def topics(config: Config, create: bool, as_json: bool) -> None:
    """List the topics of a pipeline, and create them if asked to.

    \b
    Example:
      eddy topics examples/flows.yaml --create
    """  # noqa: D301 (click keeps the lines after a real backspace as they are)
    wanted = pipeline_topics(config)
    created = ensure_topics(config.kafka, wanted).created if create else []
    rows = []
    for name, spec in wanted.items():
        found = topic_partitions(config.kafka, name)
        rows.append(
            {
                "topic": name,
                "partitions": found,
                "wanted": spec.partitions,
                "created": name in created,
            }
        )
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        state = "missing" if row["partitions"] is None else f"{row['partitions']} partitions"
        click.echo(f"{row['topic']}: {state}{', created now' if row['created'] else ''}")


@click.command()
@pipeline_argument
@click.option("--input", "-i", "paths", multiple=True, required=True, help="Files of records.")
@click.option("--stream", help="Stream of the pipeline; needed if it has several.")
@click.option("--no-key", is_flag=True, help="Send records without a Kafka key.")
@json_option
def produce(
    config: Config, paths: tuple[str, ...], stream: str | None, no_key: bool, as_json: bool
) -> None:
    """Send the records of files to a stream's topic, keyed by entity.

    Records bear their event times; those without a usable one, and those that lie in the future,
    bear the time of sending. The broker soon deletes what is older than the topic's retention.

    \b
    Example:
      eddy produce examples/flows.yaml --input today.jsonl.gz
    """  # noqa: D301
    name = pick_stream(config, stream)
    spec = config.streams[name]
    decoder = Decoder(name, spec, config.limits)
    sink, sent = KafkaSink(config.kafka), 0
    try:
        for values in read_messages(paths, max_bytes=config.limits.message_bytes):
            sink.write(_stamped(decoder, spec.source.topic, values, keyed=not no_key))
            sent += len(values)
    finally:
        sink.close()
    if as_json:
        echo_json({"topic": spec.source.topic, "records": sent})
    else:
        click.echo(f"{sent:,} records sent to {spec.source.topic}")


def _stamped(decoder: Decoder, topic: str, values: list[bytes], *, keyed: bool) -> list[Output]:
    """Make messages with the entity's key and the event time."""
    keys, times = decoder.keys_and_times(values)
    # A broker refuses times too far ahead of its own, with the whole batch; and without one the
    # pipeline can tell by the log's time that a record claims to come from the future.
    times[times > time.time_ns()] = 0
    return [
        Output(
            topic, key.encode() if key and keyed else None, value, at // NS_PER_MS if at else None
        )
        for key, value, at in zip(keys, values, times.tolist(), strict=True)
    ]


@click.command()
@pipeline_argument
@click.argument(
    "what", type=click.Choice(["scored", "alerts", "dead-letters", "retrain", "models", "accounts"])
)
@click.option("--stream", help="Stream of the pipeline; needed if it has several.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is yet to come.")
@click.option("--limit", "-n", type=click.IntRange(1), help="Stop after so many messages.")
def tail(config: Config, what: str, stream: str | None, follow: bool, limit: int | None) -> None:
    """Print an output topic, a JSON message a line.

    \b
    Examples:
      eddy tail examples/flows.yaml alerts --follow
      eddy tail examples/flows.yaml scored -n 10
    """  # noqa: D301
    names = Pipeline(config, lambda: 0).topics
    if what in ("scored", "alerts"):
        topic = getattr(names, what)(pick_stream(config, stream))
    else:
        topic = getattr(names, what.replace("-", "_"))
    source, printed = KafkaSource(config.kafka, topic, follow=follow), 0
    try:
        for fetch in source.fetches():
            for value in fetch.values:
                if value is None:
                    continue
                sys.stdout.buffer.write(value + b"\n")
                printed += 1
                if printed == limit:
                    return
            sys.stdout.buffer.flush()
    finally:
        source.close()
        sys.stdout.buffer.flush()


@click.command()
@json_option
@click.option("--markdown", is_flag=True, help="Print a table in Markdown.")
def detectors(as_json: bool, markdown: bool) -> None:
    """List the detectors with what each can do.

    \b
    Example:
      eddy detectors --json
    """  # noqa: D301
    found = [detector_class(name).caps for name in sorted(CATALOGUE)]
    if as_json:
        echo_json(found)
        return
    if markdown:
        click.echo(detector_table(found))
        return
    for caps in found:
        labels = f", needs {caps.min_labels} labelled anomalies" if caps.min_labels else ""
        click.echo(
            f"{caps.name:14} {caps.supervision}, {'/'.join(caps.kinds)}, {caps.cost}, "
            f"survey {caps.section}{labels}"
        )


def detector_table(found: Sequence[Capabilities]) -> str:
    """Return a Markdown table of what each detector is and can do."""
    rows = [
        "| detector | survey, or paper | supervision | input | update | explains | cost |",
        "|---|---|---|---|---|---|---|",
    ]
    for caps in found:
        labels = f", {caps.min_labels}+ labels" if caps.min_labels else ""
        parts = {"feature": caps.per_feature, "step": caps.per_step, "value": caps.gives_expected}
        cells = [
            f"`{caps.name}`",
            f"§{caps.section}" if caps.section[0].isdigit() else caps.section,
            caps.supervision + labels,
            ", ".join(caps.kinds),
            caps.partial_fit,
            ", ".join(name for name, given in parts.items() if given) or "–",
            caps.cost,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


@click.command()
@click.argument("name", required=False)
def schema(name: str | None) -> None:
    """Print the JSON Schema of a message, or the names of all messages.

    \b
    Example:
      eddy schema ScoredEvent
    """  # noqa: D301
    if name is None:
        click.echo("\n".join(messages.MESSAGES))
    else:
        echo_json(messages.json_schema(name))


@click.command()
@pipeline_argument
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also look at the newest N records of each partition: can they be used, and is every key "
    "on one partition?",
)
@json_option
def validate(config: Config, sample: int | None, as_json: bool) -> None:
    """Check a pipeline file and show it with all defaults filled in.

    \b
    Examples:
      eddy validate examples/logs.yaml
      eddy validate examples/flows.yaml --sample 1000
    """  # noqa: D301
    pipeline = Pipeline(config, lambda: 0)
    for stream in config.streams.values():
        for route in stream.routes:
            detector_class(route.detector)(**route.settings)
    settings = dict.fromkeys(config.kafka.settings, "(set)")  # they may hold a password
    shown = msgspec.structs.replace(
        config,
        kafka=msgspec.structs.replace(config.kafka, settings=settings),
        storage=without_credentials(config.storage),
    )
    samples = [sample_stream(config, name, sample) for name in config.streams] if sample else []
    if as_json:
        echo_json({"pipeline": shown, "samples": samples} if sample else shown)
        return
    for (stream_name, route_name), layout in pipeline.layouts.items():
        click.echo(
            f"{stream_name}/{route_name}: {layout.steps} steps of {len(layout.numbers)} numbers "
            f"and {len(layout.categories)} categories"
        )
    for each in samples:
        letters = ", ".join(f"{count} {reason}" for reason, count in each.dead_letters.items())
        click.echo(
            f"{each.stream}: {each.records} newest records of {each.keys} keys, "
            f"dead letters: {letters or 'none'}"
        )
        if each.warning:
            click.echo(f"warning: {each.warning}", err=True)
    click.echo("valid")


@click.command()
@pipeline_argument
@json_option
def models(config: Config, as_json: bool) -> None:
    """List the models of each route on the storage; the champion is marked.

    \b
    Example:
      eddy models examples/flows.yaml
    """  # noqa: D301
    registry, rows = Registry(Storage(config.storage)), []
    for name, stream in config.streams.items():
        for route in stream.routes:
            champion = registry.champion(name, route.label)
            rows += [
                {
                    "stream": name,
                    "route": route.label,
                    "model_id": artefact_id,
                    "champion": artefact_id == champion,
                }
                for artefact_id in registry.ids(name, route.label)
            ]
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        mark = " champion" if row["champion"] else ""
        click.echo(f"{row['stream']}/{row['route']} {row['model_id']}{mark}")
    if not rows:
        click.echo("no models yet; 'eddy fit' makes the first", err=True)
