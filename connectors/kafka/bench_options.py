"""The command line that the baselines share."""

from __future__ import annotations

import argparse

__all__ = ["parse"]


def parse(name: str, argv: list[str]) -> argparse.Namespace:
    """Return ``bootstrap``, ``topic`` and ``records``."""
    parser = argparse.ArgumentParser(prog=f"python -m connectors.kafka.{name}")
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT")
    parser.add_argument("--topic", required=True, help="a topic that holds at least the records")
    parser.add_argument("--records", required=True, type=int, help="how many to read, at least 2")
    options = parser.parse_args(argv)
    if options.records < 2:
        parser.error("--records: a duration has two ends, so at least 2")
    return options
