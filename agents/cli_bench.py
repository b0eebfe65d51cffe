"""``eddy bench``: speed, measured side by side in one run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from agents.bench.delivery import LIMITS, measure_delivery
from agents.bench.keys import measure_keys
from agents.bench.latency import measure_latency
from agents.bench.memory import ALLOWANCE, measure_memory
from agents.bench.rebalance import LIMIT, measure_rebalance
from agents.bench.recovery import DELAY_LIMIT, RECOVERY_LIMIT, measure_recovery
from agents.bench.scoring import measure_scoring
from agents.bench.throughput import measure_throughput
from agents.options import echo_json, json_option
from detectors import CATALOGUE
from detectors.device import pick_device


@click.group()
def bench() -> None:
    """Measure speed; medians and ratios of one run on one machine."""


FOLDER = Path(".eddy/bench")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _keep(name: str, found: msgspec.Struct) -> None:
    """Write the result file; one a day and bench, the last one of the day stays."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}-{datetime.now(UTC).date()}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    _say(f"kept in {path}")


@bench.command()
@click.option("--records", default=400_000, show_default=True, help="Preloaded records.")
@click.option("--repeats", default=3, show_default=True, help="Runs of each; medians are given.")
@json_option
def throughput(records: int, repeats: int, as_json: bool) -> None:
    """Measure records/s: stock faust, bare fetch and decode, and the whole worker.

    \b
    Example:
      eddy bench throughput --json
    """  # noqa: D301 (click keeps the lines after a real backspace as they are)
    found = measure_throughput(records, repeats, _say)
    _keep("throughput", found)
    if as_json:
        echo_json(found)
        return
    names = ("worker_anomalies", "worker_all", "worker_exactly_once")
    for name in ("faust_noop", "fetch_decode", *names):
        value = getattr(found, name)
        click.echo(
            f"{name:19} {value:>10,.0f} records/s  {value / found.faust_noop:6.1f} x faust_noop  "
            f"{value / found.fetch_decode:5.2f} x fetch_decode"
        )
    click.echo(f"{found.machine}; {found.records:,} records, medians of {found.repeats}")


@bench.command()
@click.option("--rate", default=10_000, show_default=True, help="Records/s to produce.")
@click.option("--seconds", default=20, show_default=True, help="For how long.")
@json_option
def latency(rate: int, seconds: int, as_json: bool) -> None:
    """Measure the time from produce to scored event, at a steady rate.

    \b
    Example:
      eddy bench latency --rate 10000
    """  # noqa: D301
    found = measure_latency(rate, seconds, _say)
    _keep("latency", found)
    if as_json:
        echo_json(found)
        return
    for name in ("echo", "scored"):
        value = getattr(found, name)
        click.echo(
            f"{name:7} p50 {value.p50:7.1f} ms  p99 {value.p99:7.1f} ms  max {value.max:7.1f} ms"
        )
    click.echo(f"{found.machine}; {found.rate:,} records/s for {found.seconds} s")


@bench.command()
@click.option("--keys", default=100_000, show_default=True, help="Keys with a full window.")
@json_option
def memory(keys: int, as_json: bool) -> None:
    """Measure the memory that the windows of many keys take.

    \b
    Example:
      eddy bench memory --keys 100000
    """  # noqa: D301
    found = measure_memory(keys)
    _keep("memory", found)
    if as_json:
        echo_json(found)
        return
    for name in ("windows", "state", "held", "resident"):
        value = getattr(found, name)
        click.echo(f"{name:9} {value:8,.0f} bytes a key  {value / found.windows:5.2f} x windows")
    click.echo(f"{found.machine}; {found.keys:,} keys; at most {ALLOWANCE} x is meant")


@bench.command()
@click.option("--keys", default=1_000_000, show_default=True, help="Keys, of one record a pass.")
@click.option("--memory", default="128MiB", show_default=True, help="The limit, as state.memory.")
@json_option
def keys(keys: int, memory: str, as_json: bool) -> None:
    """Run many keys in little memory, and again without a limit.

    \b
    Example:
      eddy bench keys --keys 1000000 --memory 128MiB
    """  # noqa: D301
    found = measure_keys(keys, memory)
    _keep("keys", found)
    if as_json:
        echo_json(found)
        return
    for name in ("limited", "unlimited"):
        run = getattr(found, name)
        state, before, process = (
            f"{getattr(run, what) / 2**20:,.0f} MiB"
            for what in ("state_bytes", "before_bytes", "process_bytes")
        )
        moved = f"{run.evicted:,} keys evicted, {run.returned:,} returned"
        click.echo(
            f"{name:9} {run.records_per_second:>9,.0f} records/s  state {state}  "
            f"process {process}, {before} before  {moved}"
        )
    equal = found.limited.outputs == found.unlimited.outputs
    click.echo(f"outputs {'equal' if equal else 'DIFFER'}; {found.machine}; {found.keys:,} keys")


@bench.command()
@click.option("--windows", default=8192, show_default=True, help="Windows in a batch.")
@click.option("--repeats", default=5, show_default=True, help="Runs of each; medians are given.")
@click.option(
    "--detector",
    "names",
    multiple=True,
    type=click.Choice(sorted(CATALOGUE)),
    help="Time this one, instead of all; may be given again.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--twins", is_flag=True, help="Also beside the same methods in pyod.")
@json_option
def scoring(
    windows: int,
    repeats: int,
    names: tuple[str, ...],
    device: str,
    twins: bool,
    as_json: bool,
) -> None:
    """Measure windows/s: lstm_ae beside a bare forward of its network, and every detector.

    \b
    Example:
      eddy bench scoring --detector pca --detector svdd
    """  # noqa: D301
    found = measure_scoring(
        windows, repeats, names or sorted(CATALOGUE), _say, pick_device(device), twins=twins
    )
    _keep("scoring", found)
    if as_json:
        echo_json(found)
        return
    for name in ("bare", "detector"):
        value = getattr(found, name)
        click.echo(f"{name:9} {value:>9,.0f} windows/s  {value / found.bare:5.2f} x bare")
    click.echo(f"{found.machine}; {found.windows:,} windows, medians of {found.repeats}")
    click.echo(f"detectors on {found.device}:")
    for speed in found.detectors:
        rates = "  ".join(f"{rate:>11,.0f} at {size:,}" for size, rate in speed.rates.items())
        click.echo(f"{speed.detector:14} {speed.cost:9} {speed.window:18} windows/s {rates}")
    for pair in found.twins:
        ratio = pair.ours / pair.theirs
        click.echo(
            f"{pair.detector:14} {ratio:6.1f} x pyod {pair.peer}: {pair.ours:,.0f} and "
            f"{pair.theirs:,.0f} windows/s at {pair.windows:,}"
        )


@bench.command()
@click.option("--keys", default=100_000, show_default=True, help="Keys with a full window.")
@click.option("--behind", default=50_000, show_default=True, help="Records since the checkpoint.")
@click.option("--repeats", default=3, show_default=True, help="Restores; medians are given.")
@click.option("--seconds", default=20.0, show_default=True, help="How long batches are timed.")
@json_option
def recovery(keys: int, behind: int, repeats: int, seconds: float, as_json: bool) -> None:
    """Measure how soon a large partition is scored again, and what its checkpoints hold up.

    \b
    Example:
      eddy bench recovery --keys 100000
    """  # noqa: D301
    found = measure_recovery(keys, behind, repeats, seconds, _say)
    _keep("recovery", found)
    if as_json:
        echo_json(found)
        return
    held = found.checkpoint
    click.echo(
        f"restored in {found.restore:.2f} s; first scored record after {found.first:.2f} s, at "
        f"most {found.longest:.2f} s (at most {RECOVERY_LIMIT:g} s is meant)"
    )
    click.echo(f"a copy of the state: {held.snapshot[0]:.1f} ms, at most {held.snapshot[1]:.1f} ms")
    for name in ("without", "during"):
        p50, p99, longest = getattr(held, name)
        click.echo(f"a batch {name:8} p50 {p50:7.1f} ms  p99 {p99:7.1f} ms  max {longest:7.1f} ms")
    click.echo(f"longest delay {held.delay:.1f} ms (at most {DELAY_LIMIT:g} ms is meant)")
    click.echo(
        f"{found.machine}; {found.keys:,} keys, {held.mib:.0f} MiB a checkpoint, "
        f"{found.behind:,} records since then; medians of {found.repeats}"
    )


@bench.command()
@click.option("--records", default=1_000_000, show_default=True, help="Preloaded records.")
@click.option("--keys", default=10_000, show_default=True, help="Entities that they are of.")
@click.option("--repeats", default=5, show_default=True, help="Runs of each; medians are given.")
@json_option
def delivery(records: int, keys: int, repeats: int, as_json: bool) -> None:
    """Measure what the guarantees cost: none, at least once, exactly once.

    \b
    Example:
      eddy bench delivery --json
    """  # noqa: D301
    found = measure_delivery(records, keys, repeats, _say)
    _keep("delivery", found)
    if as_json:
        echo_json(found)
        return
    click.echo(f"{'off':14} {found.off:>10,.0f} records/s")
    for name, limit in LIMITS.items():
        cost = getattr(found, f"{name}_cost")
        click.echo(
            f"{name:14} {getattr(found, name):>10,.0f} records/s  costs {cost:5.1f} % "
            f"(at most {limit:g} % is meant)"
        )
    click.echo(
        f"{found.machine}; {found.records:,} records of {found.keys:,} keys, "
        f"medians of {found.repeats}"
    )


@bench.command()
@click.option("--changes", default=40, show_default=True, help="Leaves and joins, in turn.")
@click.option("--rate", default=5_000, show_default=True, help="Records/s to produce.")
@click.option(
    "--delivery",
    type=click.Choice(list(LIMITS)),
    default="at_least_once",
    show_default=True,
    help="What the workers offer.",
)
@json_option
def rebalance(changes: int, rate: int, delivery: str, as_json: bool) -> None:
    """Measure how long partitions pause when one of three workers leaves or joins.

    \b
    Example:
      eddy bench rebalance --changes 40
    """  # noqa: D301
    found = measure_rebalance(changes, rate, delivery, _say)
    _keep("rebalance", found)
    if as_json:
        echo_json(found)
        return
    for name in ("leave", "join", "all"):
        value = getattr(found, name)
        click.echo(
            f"{name:6} p50 {value.p50:5.2f} s  p99 {value.p99:5.2f} s  max {value.max:5.2f} s"
        )
    click.echo(
        f"{found.machine}; {found.changes} changes, {found.rate:,} records/s, {found.delivery}; "
        f"p99 of at most {LIMIT:g} s is meant"
    )
