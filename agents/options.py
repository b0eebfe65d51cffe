"""Arguments and output that several commands share."""

from __future__ import annotations

import os
from typing import Any

import click
import msgspec

from schemas.config import Pipeline as Config
from schemas.parse import load_pipeline


class PipelineFile(click.ParamType):
    """The path of a pipeline file; ``EDDY_BOOTSTRAP`` and ``EDDY_STORAGE`` override it."""

    name = "PIPELINE.yaml"

    def convert(self, value: Any, param: Any, ctx: Any) -> Config:
        """Read the file."""
        if isinstance(value, msgspec.Struct):
            return value  # type: ignore[return-value]  # converted before
        return _overridden(load_pipeline(value))


def _overridden(config: Config) -> Config:
    bootstrap, storage = os.environ.get("EDDY_BOOTSTRAP"), os.environ.get("EDDY_STORAGE")
    if bootstrap:
        kafka = msgspec.structs.replace(config.kafka, bootstrap=bootstrap)
        config = msgspec.structs.replace(config, kafka=kafka)
    return msgspec.structs.replace(config, storage=storage) if storage else config


pipeline_argument = click.argument("config", type=PipelineFile(), metavar="PIPELINE.yaml")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def echo_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def pick_stream(config: Config, name: str | None) -> str:
    """Choose the stream that a command is about.

    Raises
    ------
    click.UsageError
        If there are several and none is named, or there is none of that name.
    """
    names = list(config.streams)
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        msg = f"--stream: choose one of {', '.join(names)}"
        raise click.UsageError(msg)
    return name
