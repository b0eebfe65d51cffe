"""Waiting for a storage that does not take what has to be kept."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from connectors.kafka.backoff import pauses
from schemas.errors import SetupError

log = structlog.get_logger(__name__)


def patiently(work: Callable[[], None], what: str) -> None:
    """Do something that needs the storage, again and again until it takes it.

    Whoever waits for the outcome stands still meanwhile, and so does what feeds it: a worker's
    fetching stops when enough is under way, and its health tells what keeps it.
    """
    for pause in pauses():
        try:
            return work()
        except SetupError as error:
            log.warning("waiting for the storage", what=what, why=str(error))
            time.sleep(pause)
    raise AssertionError  # pauses never end
