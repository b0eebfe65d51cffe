"""Sends the records of a run at a steady pace, and tells how far it is."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence

from kafka import KafkaProducer
from kafka.errors import KafkaError

from tests.chaos.records import Sent

TICK_SECONDS = 0.1
ACKNOWLEDGED_SECONDS = 180.0


class Feeder:
    """A producer in a thread of its own, which goes as far as it is let.

    So records are left for the time after each fault, however long it lasts.

    Attributes
    ----------
    failure
        What ended the feeding, if anything did.
    """

    def __init__(self, bootstrap: str, topic: str, records: Sequence[Sent], pace: int) -> None:
        self.failure: BaseException | None = None
        self.ends: dict[int, int] = {}
        self._bootstrap, self._topic, self._records = bootstrap, topic, records
        self._portion = max(1, int(pace * TICK_SECONDS))
        self._gate = 0
        self._sent = 0
        self._counts: Counter[int] = Counter()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def let(self, share: float) -> None:
        """Let a share of the records be sent."""
        with self._changed:
            self._gate = max(self._gate, int(share * len(self._records)))
            self._changed.notify_all()

    def await_sent(self, share: float, seconds: float) -> bool:
        """Wait until a share of the records has been sent."""
        wanted = int(share * len(self._records))
        with self._changed:
            return self._changed.wait_for(
                lambda: self._sent >= wanted or not self._thread.is_alive(), seconds
            )

    def counts(self) -> dict[int, int]:
        """Return how many records each partition has been sent."""
        with self._changed:
            return dict(self._counts)

    def finish(self) -> dict[int, int]:
        """Send the rest too; return each partition's end once all is acknowledged."""
        self.let(1.0)
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        return self.ends

    def stop(self) -> None:
        """Stop feeding, wherever it is."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is not None:  # else what kept it from starting would be forgotten
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
        at = 0
        while at < len(self._records):
            until = self._await_gate(at)
            due = max(due + TICK_SECONDS, time.monotonic() - 1.0)
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            for number, key, value, at_ms in self._records[at:until]:
                waiting.append(
                    producer.send(self._topic, value, key=key, partition=number, timestamp_ms=at_ms)
                )
            with self._changed:
                self._counts.update(x.partition for x in self._records[at:until])
                self._sent = at = until
                self._changed.notify_all()
        producer.flush(ACKNOWLEDGED_SECONDS)
        for future in waiting:
            done = future.get(timeout=ACKNOWLEDGED_SECONDS)
            self.ends[done.partition] = max(self.ends.get(done.partition, 0), done.offset + 1)
        if not self.ends:
            raise KafkaError

    def _await_gate(self, at: int) -> int:
        """Wait until records from ``at`` on may be sent; return the end of the next portion."""
        with self._changed:
            self._changed.wait_for(lambda: at < self._gate or self._stopped.is_set())
            return min(at + self._portion, max(self._gate, at))
