"""Loggers of the Kafka libraries, kept to what an operator can use.

While a broker is away, aiokafka reports every attempt of every connection, ten a second, and all of
them are tried again; faust reports the comings and goings of its services. What matters of that
the worker reports itself (:mod:`connectors.kafka.health`).
"""

from __future__ import annotations

import logging

__all__ = ["quiet_libraries"]

LEVELS = {
    "aiokafka": logging.CRITICAL,
    "faust": logging.ERROR,
    "kafka": logging.CRITICAL,
    "mode": logging.ERROR,
}


def quiet_libraries() -> None:
    """Limit the libraries' loggers, unless the application has set their levels; idempotent."""
    for name, level in LEVELS.items():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(level)
