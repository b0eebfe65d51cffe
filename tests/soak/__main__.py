"""``python -m tests.soak``: run the parts that have no result yet."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec
from kafka import KafkaConsumer, TopicPartition
from rich.console import Console

from connectors.broker import Broker
from connectors.kafka.admin import TopicSpec, ensure_topics
from schemas.config import Kafka
from tests.chaos.code import fingerprint
from tests.chaos.law import Verdict
from tests.chaos.published import Published
from tests.chaos.schedule import DELIVERIES, PARTITIONS
from tests.chaos.setting import STREAM
from tests.soak.expected import expect
from tests.soak.plan import Found, Plan
from tests.soak.records import fill
from tests.soak.report import table
from tests.soak.run import perform, verify
from tests.soak.setting import TOPIC, prepare


@click.command()
@click.option("--records", default=10_000_000, show_default=True, help="Records in the topic.")
@click.option("--keys", default=100_000, show_default=True, help="Entities that they are of.")
@click.option("--kills", default=20, show_default=True, help="How often a worker is killed.")
@click.option(
    "--workers",
    default=1,
    show_default=True,
    help="Workers, of which one is killed; two need more records, as one is always at work.",
)
@click.option("--delivery", type=click.Choice(DELIVERIES), default=DELIVERIES[0], show_default=True)
@click.option("--part", type=click.Choice(["kills", "memory", "all"]), default="all")
@click.option("--seed", default=0, show_default=True, help="Of records and kills.")
@click.option("--again", is_flag=True, help="Run what has a result again.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".chaos/soak"),
    show_default=True,
    help="Folder of the results; what has one there is not run again.",
)
def soak(
    records: int,
    keys: int,
    kills: int,
    workers: int,
    delivery: str,
    part: str,
    seed: int,
    again: bool,
    results: Path,
) -> None:
    """Run a worker long: killed again and again, and undisturbed."""
    quiet = Plan(part="memory", records=records, keys=keys, delivery=delivery, seed=seed)
    plans = [msgspec.structs.replace(quiet, part="kills", kills=kills, workers=workers), quiet]
    plans = [plan for plan in plans if part in (plan.part, "all")]
    results.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    found = [x for plan in plans if not again and (x := _known(plan, results)) is not None]
    left = [plan for plan in plans if plan not in [x.plan for x in found]]
    if left:
        found += _outcomes(left, results)
    Console(width=190).print(table(found))
    for x in found:
        if not x.green:
            click.echo(f"red: {x.plan.name} {x.trouble} {x.verdict.by_kind} crashes {x.crashes}")
    sys.exit(0 if all(x.green for x in found) else 1)


def _outcomes(plans: list[Plan], results: Path) -> Iterable[Found]:
    """Fill a topic, and let the workers of each plan read it."""
    with Broker() as broker, tempfile.TemporaryDirectory(prefix="eddy-soak-") as name:
        folder, plan = Path(name), plans[0]
        ensure_topics(Kafka(bootstrap=broker.bootstrap), {TOPIC: TopicSpec(PARTITIONS)})
        click.echo(f"{plan.records:,} records of {plan.keys:,} keys go to {broker.bootstrap}")
        fill(broker.bootstrap, plan.seed, plan.records, plan.keys, TOPIC)
        ends = _ends(broker.bootstrap)
        due: Published | None = None
        for plan in plans:
            click.echo(f"{plan.name} begins")
            found = Found(plan=plan, verdict=Verdict())
            try:
                setting = prepare(plan, broker.bootstrap, folder)
                found = perform(plan, setting, broker.bootstrap, ends, setting.file.parent)
                click.echo(f"{plan.name}: through in {found.seconds} s; now it is checked")
                champion = setting.registry.champion(STREAM, setting.route) or ""
                model = setting.registry.load(STREAM, setting.route, champion)
                due = due or expect(setting, model, ends)
                verify(found, setting, broker.bootstrap, model, due)
            except Exception as error:
                traceback.print_exc()
                found.trouble = f"{found.trouble} the part failed: {error!r}".lstrip()
            _keep(found, folder, results)
            yield found


def _ends(bootstrap: str) -> dict[int, int]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    try:
        places = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        return {x.partition: end for x, end in consumer.end_offsets(places).items()}
    finally:
        consumer.close()


def _keep(found: Found, folder: Path, results: Path) -> None:
    """Write the result, and keep the logs of a part that is not green."""
    found.code = fingerprint()
    file = results / f"{found.plan.name}.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    if not found.green:
        target = results / found.plan.name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for log in (folder / found.plan.name).glob("*.log"):
            shutil.copy(log, target)


def _known(plan: Plan, results: Path) -> Found | None:
    """Return the result of a plan, if there is one of this code that came to its end."""
    file = results / f"{plan.name}.json"
    if not file.exists():
        return None
    found = msgspec.json.decode(file.read_bytes(), type=Found)
    same = found.plan == plan and found.code == fingerprint()
    return found if same and not found.trouble else None


if __name__ == "__main__":
    soak()
