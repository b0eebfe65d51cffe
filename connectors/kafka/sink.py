"""A sink that publishes to Kafka from ordinary, synchronous code."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence

from connectors.base import Output
from connectors.kafka.health import Health
from connectors.kafka.publisher import Publisher
from connectors.kafka.quiet import quiet_libraries
from schemas.config import Kafka
from schemas.errors import SetupError

__all__ = ["KafkaSink"]


class KafkaSink:
    """Publishes through an event loop in a thread of its own.

    Parameters
    ----------
    config
        The connection.
    timeout_seconds
        How long one :meth:`write` may take before the broker counts as gone; None waits for ever.
    """

    def __init__(self, config: Kafka, timeout_seconds: float | None = 60.0) -> None:
        quiet_libraries()
        self._timeout = timeout_seconds
        self._health = Health()
        self._loop = asyncio.new_event_loop()
        self._publisher = Publisher(config, self._health)
        self._closed = False
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="eddy-sink", daemon=True
        )
        self._thread.start()

    def write(self, outputs: Sequence[Output]) -> None:
        """Publish all messages and return when they are acknowledged.

        Raises
        ------
        SetupError
            If the broker does not acknowledge in time, with what was waited for.
        DataError
            If a message is larger than its topic takes.
        """
        if self._closed:
            msg = "the sink is closed: write before close()"
            raise SetupError(msg)
        future = asyncio.run_coroutine_threadsafe(self._publisher.publish(outputs), self._loop)
        try:
            future.result(self._timeout)
        except TimeoutError:
            future.cancel()
            reason = self._health.reason or "the broker did not acknowledge"
            msg = f"could not publish {len(outputs)} message(s) within {self._timeout} s: {reason}"
            raise SetupError(msg) from None

    def close(self) -> None:
        """Close the connections; may be called twice."""
        if self._closed:
            return
        self._closed = True
        stopped = asyncio.run_coroutine_threadsafe(self._publisher.stop(), self._loop)
        with contextlib.suppress(TimeoutError):
            stopped.result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self._loop.close()
