"""``eddy broker``: a real Kafka on this machine's loopback until it is interrupted."""

import json
import signal
import threading
from types import FrameType

import click

from connectors.broker import Broker, fetched, kafka_version

__all__ = ["broker"]

# How soon the command notices that a node ended by itself.
CHECK_SECONDS = 0.5


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9092,
    show_default=True,
    help="Port of the first node, further nodes follow; 0 takes any free ones.",
)
@click.option(
    "--nodes",
    type=click.IntRange(1, 9),
    default=1,
    show_default=True,
    help="Size of the cluster; from 3 on, topics are replicated.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False),
    help="Keep the data in this folder, also after the end.  [default: a temporary folder]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the address as a JSON object.")
def broker(port: int, nodes: int, directory: str | None, as_json: bool) -> None:
    """Run Apache Kafka on loopback, for development.

    Prints the bootstrap address when the broker is ready, and runs until Ctrl-C or SIGTERM. Needs
    Java 17 or newer, and the first time also Maven and a network. Not for production: no
    authentication, no encryption.

    \b
    Examples:
      eddy broker
      eddy broker --port 0 --json
      eddy broker --nodes 3 --dir ./kafka-data
    """  # noqa: D301 (click keeps the lines after a real backspace as they are)
    if not fetched():
        click.echo(f"Fetching Apache Kafka {kafka_version()} with Maven, once.", err=True)
    # SIGTERM takes the way of Ctrl-C, so that an end during the start cleans up as well
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        with Broker(port=port, nodes=nodes, directory=directory) as running:
            _announce(running, nodes, kept=directory is not None, as_json=as_json)
            never = threading.Event()
            while not never.wait(CHECK_SECONDS):
                running.check_alive()
    except KeyboardInterrupt:
        click.echo("The broker has stopped.", err=True)


def _announce(running: Broker, nodes: int, *, kept: bool, as_json: bool) -> None:
    """Print the address alone on standard output, where scripts read it."""
    if as_json:
        facts = {
            "bootstrap": running.bootstrap,
            "nodes": nodes,
            "kafka": kafka_version(),
            "directory": str(running.directory),
        }
        click.echo(json.dumps(facts))
    else:
        click.echo(running.bootstrap)
    fate = "stays" if kept else "is removed at the end"
    click.echo(
        f"Apache Kafka {kafka_version()} is ready, nodes: {nodes}. Its data in {running.directory} "
        f"{fate}. Ctrl-C stops it.",
        err=True,
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
