"""The command ``eddy``."""

from __future__ import annotations

import logging
import sys
from importlib import metadata

import click
import structlog

from agents.cli_accuracy import accuracy
from agents.cli_audit import audit_command
from agents.cli_bench import bench
from agents.cli_broker import broker
from agents.cli_demo import demo
from agents.cli_history import fit, replay_command
from agents.cli_run import run, train
from agents.cli_tools import detectors, models, produce, schema, tail, topics, validate
from schemas.errors import ConfigError, EddyError

_OURS = "eddy"
_PACKAGES = ("agents", "connectors", "detectors", "schemas")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=_OURS, prog_name=_OURS)
@click.option("--verbose", "-v", is_flag=True, help="Log more.")
def eddy(verbose: bool) -> None:
    """Streaming anomaly detection for Kafka."""
    level = logging.DEBUG if verbose else logging.INFO
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
    )


bench.add_command(accuracy)
for _command in (
    audit_command,
    bench,
    broker,
    demo,
    detectors,
    fit,
    models,
    produce,
    replay_command,
    run,
    schema,
    tail,
    topics,
    train,
    validate,
):
    eddy.add_command(_command)


def foreign_owners() -> dict[str, list[str]]:
    """Name the other distributions that own one of our import packages, by package.

    ``openai-agents``, for one, installs a package ``agents``: whichever came last wins, and half
    of the other's modules are gone.
    """
    found = {}
    owners = metadata.packages_distributions()
    for package in _PACKAGES:
        others = [name for name in owners.get(package, []) if name.lower() != _OURS]
        if others:
            found[package] = others
    return found


def main() -> None:
    """Run a command; 0 is success, 1 failure, 2 wrong usage or configuration."""
    for package, others in foreign_owners().items():
        click.echo(
            f"eddy: {', '.join(others)} also installs a package {package!r}: install Eddy into an "
            "environment of its own",
            err=True,
        )
        sys.exit(1)
    try:
        eddy.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except ConfigError as error:
        click.echo(f"eddy: {error}", err=True)
        sys.exit(2)
    except EddyError as error:
        click.echo(f"eddy: {error}", err=True)
        sys.exit(1)
