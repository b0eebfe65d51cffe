"""``eddy bench``: speed, measured side by side in one run."""

from __future__ import annotations

import click

from agents.bench.throughput import Throughput, measure_throughput
from agents.options import echo_json, json_option


@click.group()
def bench() -> None:
    """Measure speed; medians and ratios of one run on one machine."""


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
    found = measure_throughput(records, repeats, lambda text: click.echo(text, err=True))
    if as_json:
        echo_json(found)
    else:
        _show(found)


def _show(found: Throughput) -> None:
    for name in ("faust_noop", "fetch_decode", "worker_anomalies", "worker_all"):
        value = getattr(found, name)
        click.echo(
            f"{name:17} {value:>10,.0f} records/s  {value / found.faust_noop:6.1f} x faust_noop  "
            f"{value / found.fetch_decode:5.2f} x fetch_decode"
        )
    click.echo(f"{found.machine}; {found.records:,} records, medians of {found.repeats}")
