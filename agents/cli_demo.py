"""``eddy demo``: the whole pipeline on generated traffic, on a real broker where Java is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from agents import demo as material
from agents.demo import Outcome, Traffic
from agents.local import LocalRuntime
from agents.options import echo_json, json_option
from agents.topics import pipeline_topics
from connectors.base import Output
from connectors.broker import Broker, unavailable_reason
from connectors.kafka.admin import ensure_topics
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from connectors.storage import Storage
from schemas import messages
from schemas.config import Pipeline as Config
from schemas.errors import SetupError
from schemas.messages import Account, ModelEvent
from schemas.topics import Topics

CHUNK = 4096
PATIENCE_SECONDS = 150.0


@click.command()
@click.argument("kind", type=click.Choice(material.KINDS), required=False)
@click.option("--seed", default=0, show_default=True, help="Other traffic, other anomalies.")
@click.option("--records", default=60_000, show_default=True, help="Messages of each stream.")
@click.option("--budget", default=20.0, show_default=True, help="Alerts a day of each stream.")
@click.option("--memory", is_flag=True, help="Leave Kafka out.")
@json_option
def demo(
    kind: str | None, seed: int, records: int, budget: float, memory: bool, as_json: bool
) -> None:
    """Show the whole loop: traffic, windows, alerts, drift, a new model.

    Generates logs, transactions and flows with anomalies and a drift in them, fits first models,
    runs worker and trainer on a real Kafka broker (in memory where there is no Java), and tells
    what was found.

    \b
    Examples:
      eddy demo
      eddy demo flows --seed 7
    """  # noqa: D301 (click keeps the lines after a real backspace as they are)
    kinds = (kind,) if kind else material.KINDS
    missing = unavailable_reason()
    if missing and not memory:
        click.echo(f"Running in memory, without Kafka: {missing}", err=True)
    with tempfile.TemporaryDirectory(prefix="eddy-demo-") as folder:
        began = time.monotonic()
        say = _say(began)
        traffic = [material.make_traffic(k, seed, records) for k in kinds]
        runner = _in_memory if memory or missing else _on_broker
        outcomes = runner(traffic, Path(folder), seed, budget, say)
    seconds = time.monotonic() - began
    if as_json:
        echo_json({"seconds": seconds, "streams": [_facts(o) for o in outcomes.values()]})
    else:
        _show(outcomes, budget, seconds)
    failed = [o.traffic.kind for o in outcomes.values() if not (o.balanced and o.renewed)]
    if failed:
        click.echo(f"not balanced, or no new model in use: {', '.join(failed)}", err=True)
        sys.exit(1)


Say = Callable[[str], None]


def _say(began: float) -> Say:
    return lambda text: click.echo(f"{time.monotonic() - began:6.1f} s  {text}", err=True)


def _fit(config: Config, traffic: list[Traffic], storage: Storage, seed: int, say: Say) -> None:
    for stream in traffic:
        ids = material.fit_history(config, stream, storage, seed)
        say(f"{stream.kind}: first model {', '.join(ids)} fitted on the history")


def _in_memory(
    traffic: list[Traffic], folder: Path, seed: int, budget: float, say: Say
) -> dict[str, Outcome]:
    kinds = [t.kind for t in traffic]
    config = material.demo_pipeline(kinds, "memory", str(folder / "storage"), budget)
    storage = Storage(config.storage)
    _fit(config, traffic, storage, seed, say)
    runtime = LocalRuntime(config, storage)
    offsets = {t.kind: [0] * config.partitions for t in traffic}
    for phase in (0, 1):
        for stream in traffic:
            values, keys = stream.phases[phase]
            topic = config.streams[stream.kind].source.topic
            for at in range(0, len(values), CHUNK):
                part = values[at : at + CHUNK], keys[at : at + CHUNK]
                runtime.feed(
                    material.as_fetches(topic, *part, config.partitions, offsets[stream.kind])
                )
            say(f"{stream.kind}: {len(values):,} messages processed")
    runtime.finish()
    return material.collect(config, traffic, runtime.sink.topics)


def _on_broker(
    traffic: list[Traffic], folder: Path, seed: int, budget: float, say: Say
) -> dict[str, Outcome]:
    kinds = [t.kind for t in traffic]
    with Broker() as broker:
        say(f"Apache Kafka runs at {broker.bootstrap}")
        document = material.demo_document(kinds, broker.bootstrap, str(folder / "storage"), budget)
        path = folder / "pipeline.yaml"
        material.write_document(path, document)
        config = material.demo_pipeline(kinds, broker.bootstrap, document["storage"], budget)
        _fit(config, traffic, Storage(config.storage), seed, say)
        ensure_topics(config.kafka, pipeline_topics(config))
        with _process("run", path, folder), _process("train", path, folder):
            _produce(config, traffic, 0, say)
            _await(lambda: _consumed(config, traffic, 1), "the first phase", folder)
            say("first phase processed; waiting for the models that the drift asks for")
            _await(lambda: _renewed(config, traffic), "new models", folder)
            _produce(config, traffic, 1, say)
            _await(lambda: _consumed(config, traffic, 2), "the second phase", folder)
            say("second phase processed")
        topics = Topics(config.name)
        names = [topics.accounts, topics.retrain, topics.models]
        names += [name for k in kinds for name in (topics.alerts(k), topics.scored(k))]
        return material.collect(config, traffic, {name: _read(config, name) for name in names})


@contextmanager
def _process(command: str, path: Path, folder: Path) -> Iterator[None]:
    """Run ``eddy run`` or ``eddy train`` until the block ends, its log in the folder."""
    arguments = [sys.executable, "-m", "agents", command, str(path), "--port", "0"]
    with (folder / f"{command}.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)  # noqa: S603 - our own command
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _produce(config: Config, traffic: list[Traffic], phase: int, say: Say) -> None:
    sink = KafkaSink(config.kafka)
    try:
        for stream in traffic:
            values, keys = stream.phases[phase]
            topic = config.streams[stream.kind].source.topic
            for at in range(0, len(values), CHUNK):
                pairs = zip(keys[at : at + CHUNK], values[at : at + CHUNK], strict=True)
                sink.write([Output(topic, key, value) for key, value in pairs])
            say(f"{stream.kind}: {len(values):,} messages sent")
    finally:
        sink.close()


def _await(done: Callable[[], bool], what: str, folder: Path) -> None:
    """Wait until something is so, within reason."""
    limit = time.monotonic() + PATIENCE_SECONDS
    while not done():
        if time.monotonic() > limit:
            tails = {
                name: (folder / f"{name}.log").read_text(errors="replace")[-2000:]
                for name in ("run", "train")
            }
            shutil.copytree(
                folder, Path(tempfile.gettempdir()) / "eddy-demo-failed", dirs_exist_ok=True
            )
            msg = f"waited {PATIENCE_SECONDS:.0f} s for {what} in vain; the logs end:\n{tails}"
            raise SetupError(msg)
        time.sleep(0.5)


def _read(config: Config, topic: str) -> list[Output]:
    source = KafkaSource(config.kafka, topic)
    try:
        return [
            Output(topic, key, value)
            for fetch in source.fetches()
            for key, value in zip(fetch.keys, fetch.values, strict=True)
            if value is not None
        ]
    finally:
        source.close()


def _consumed(config: Config, traffic: list[Traffic], phases: int) -> bool:
    counts: dict[str, dict[int, int]] = {}
    for output in _read(config, Topics(config.name).accounts):
        account = messages.decode(output.value, Account)
        counts.setdefault(account.stream, {})[account.partition] = account.records_in
    return all(
        sum(counts.get(t.kind, {}).values()) >= sum(len(v) for v, _ in t.phases[:phases])
        for t in traffic
    )


def _renewed(config: Config, traffic: list[Traffic]) -> bool:
    events = [
        messages.decode(o.value, ModelEvent) for o in _read(config, Topics(config.name).models)
    ]
    return {t.kind for t in traffic} <= {e.stream for e in events if e.stage == "champion"}


def _facts(outcome: Outcome) -> dict[str, object]:
    return {
        "stream": outcome.traffic.kind,
        "account": outcome.account,
        "balanced": outcome.balanced,
        "episodes": len(outcome.traffic.episodes),
        "found": len(outcome.found),
        "recall": outcome.recall,
        "incidents": len(outcome.incidents),
        "days": outcome.traffic.days,
        "requests": [r.detail for r in outcome.requests],
        "new_models": [e.artefact_id for e in outcome.champions],
        "renewed": outcome.renewed,
    }


def _show(outcomes: dict[str, Outcome], budget: float, seconds: float) -> None:
    console = Console()
    table = Table(title="Every message accounted for")
    for name in ("stream", "in", "windowed", "late", "duplicate", "dead-letter", "filtered", ""):
        table.add_column(name, justify="left" if name == "stream" else "right")
    for kind, o in outcomes.items():
        a = o.account
        counts = (
            []
            if a is None
            else [a.records_in, a.windowed, a.late, a.duplicate, a.dead_letter, a.filtered]
        )
        table.add_row(kind, *(f"{c:,}" for c in counts), "equal" if o.balanced else "NOT EQUAL")
    console.print(table)
    table = Table(title="What was found")
    for name in ("stream", "injected", "found", "recall", "incidents", "budget", "new model"):
        table.add_column(name, justify="left" if name == "stream" else "right")
    for kind, o in outcomes.items():
        table.add_row(
            kind,
            str(len(o.traffic.episodes)),
            str(len(o.found)),
            f"{o.recall:.2f}",
            str(len(o.incidents)),
            f"{budget * o.traffic.days + budget:.0f}",
            "in use" if o.renewed else "none",
        )
    console.print(table)
    for outcome in outcomes.values():
        worst = sorted(outcome.incidents.values(), key=lambda i: i.min_p_value)[:2]
        for incident in worst:
            click.echo(f"incident {incident.incident_id}: {incident.summary}")
        drifts = [r for r in outcome.requests if r.reason == "drift"]
        for request in drifts[:1]:
            click.echo(f"drift of {outcome.traffic.kind}: {request.detail}")
    click.echo(f"{seconds:.0f} s in all")
