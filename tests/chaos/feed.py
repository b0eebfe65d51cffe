"""Sends the records of a run at a steady pace, and tells how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from kafka import KafkaProducer
from kafka.errors import KafkaError

from tests.chaos.records import Sent

TICK_SECONDS = 0.1
ACKNOWLEDGED_SECONDS = 180.0


class Feeder:
    """A producer in a thread of its own.

    The last records wait for :meth:`finish`, so that some are left for after the last fault.

    Attributes
    ----------
    failure
        What ended the feeding, if anything did.
    """

    def __init__(
        self, bootstrap: str, topic: str, records: Sequence[Sent], pace: int, held_back: float
    ) -> None:
        self.failure: BaseException | None = None
        self.ends: dict[int, int] = {}
        self._bootstrap, self._topic, self._records = bootstrap, topic, records
        self._portion = max(1, int(pace * TICK_SECONDS))
        self._gate = int(len(records) * (1 - held_back))
        self._sent = 0
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def await_sent(self, share: float, seconds: float) -> bool:
        """Wait until a share of the records has been sent."""
        wanted = int(share * len(self._records))
        with self._changed:
            return self._changed.wait_for(
                lambda: self._sent >= wanted or not self._thread.is_alive(), seconds
            )

    def finish(self) -> dict[int, int]:
        """Send the rest too; return each partition's end once all is acknowledged."""
        with self._changed:
            self._gate = len(self._records)
            self._changed.notify_all()
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        return self.ends

    def stop(self) -> None:
        """Stop feeding, wherever it is."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(ACKNOWLEDGED_SECONDS)

    def _run(self) -> None:
        try:
            with KafkaProducer(
                bootstrap_servers=self._bootstrap.split(","),
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                max_block_ms=60_000,
                delivery_timeout_ms=int(1000 * ACKNOWLEDGED_SECONDS),
                request_timeout_ms=15_000,
            ) as producer:
                self._feed(producer)
        except BaseException as error:
            self.failure = error
        with self._changed:
            self._changed.notify_all()

    def _feed(self, producer: KafkaProducer) -> None:
        waiting = []
        due = time.monotonic()
        for first in range(0, len(self._records), self._portion):
            until = first + self._portion
            self._await_gate(until)
            due = max(due + TICK_SECONDS, time.monotonic() - 1.0)
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            for number, key, value, at_ms in self._records[first:until]:
                waiting.append(
                    producer.send(self._topic, value, key=key, partition=number, timestamp_ms=at_ms)
                )
            with self._changed:
                self._sent = min(until, len(self._records))
                self._changed.notify_all()
        producer.flush(ACKNOWLEDGED_SECONDS)
        for future in waiting:
            done = future.get(timeout=ACKNOWLEDGED_SECONDS)
            self.ends[done.partition] = max(self.ends.get(done.partition, 0), done.offset + 1)
        if not self.ends:
            raise KafkaError

    def _await_gate(self, until: int) -> None:
        """Wait until records before ``until`` may be sent."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    until <= self._gate
                    or self._gate == len(self._records)
                    or self._stopped.is_set()
                )
            )
