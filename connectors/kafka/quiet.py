"""Loggers of the Kafka libraries, kept to what an operator can use.

While a broker is away, aiokafka reports every attempt of every connection, ten a second; and faust
reports the comings and goings of its services. What matters of it the worker reports itself.
"""

from __future__ import annotations

import logging
import time

__all__ = ["quiet_libraries"]

REPEAT_SECONDS = 30.0

# The modules that repeat themselves while a broker is away.
REPEATERS = (
    "aiokafka.client",
    "aiokafka.conn",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.sender",
)


class _Seldom(logging.Filter):
    """Lets a message pass once per half minute, whatever its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the message may pass."""
        now = time.monotonic()
        if now - self._last.get(record.msg, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        self._last[record.msg] = now
        return True


def quiet_libraries() -> None:
    """Limit the libraries' loggers, unless the application has set their levels; idempotent."""
    for name in ("faust", "mode", "aiokafka", "kafka"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.ERROR)
    for name in REPEATERS:
        logger = logging.getLogger(name)
        if not any(isinstance(x, _Seldom) for x in logger.filters):
            logger.addFilter(_Seldom())
