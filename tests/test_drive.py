"""The worker's engine when something fails: what counts as done then."""

import asyncio
from collections.abc import Callable, Collection, Mapping

import numpy as np

from connectors.base import Fetch, Partition
from connectors.kafka.drive import Drive
from connectors.kafka.handler import Batch
from connectors.kafka.ledger import Ledger
from connectors.kafka.polls import Committed
from tests.kafka_support import Notes

HERE = Partition("records", 0)
SIZE = 10
FETCHES = [
    Fetch(HERE, x + np.arange(SIZE), np.zeros(SIZE, np.int64), [None] * SIZE, [b""] * SIZE)
    for x in range(0, 3 * SIZE, SIZE)
]


class Alone:
    """No group: nothing is committed, and nothing else is asked."""

    async def commit(self) -> Committed:
        raise AssertionError

    def book(self, offsets: Mapping[Partition, int]) -> None:
        assert not offsets

    def caught_up(self) -> bool:
        return True

    async def told(self) -> None:
        raise AssertionError

    def lost(self, error: Exception) -> None:
        raise AssertionError(error)


class Steered:
    """A delivery that for each batch waits for something, and may fail."""

    repeats = True

    def __init__(self) -> None:
        self.ready: Callable[[], bool] = lambda: True
        self.delivered: list[int] = []
        self.fails_at = -1

    async def deliver(self, batch: Batch) -> Mapping[Partition, int]:
        while not self.ready():
            await asyncio.sleep(0)
        if batch.positions[HERE] == self.fails_at:
            raise OSError("no more space")
        self.delivered.append(batch.positions[HERE])
        return {}

    async def take_on(self, partitions: Collection[Partition]) -> None:
        raise AssertionError

    def begin(self, committed: Mapping[Partition, int]) -> None:
        raise AssertionError

    async def leave(self) -> None:
        raise AssertionError

    async def stop(self) -> None:
        raise AssertionError


def drive(delivery: Steered, handler: Notes, ready: Callable[[Drive], bool]) -> tuple[str, int]:
    """Drive the fetches through, and return the failure and up to where work counts as done."""
    ledger = Ledger()
    ledger.assign(HERE, 0)
    driving = Drive(
        handler, delivery, ledger, Alone(), batch=SIZE, deadline_seconds=0.0, tick_seconds=60.0
    )
    delivery.ready = lambda: ready(driving)

    async def main() -> str:
        for fetch in FETCHES:
            ledger.received(HERE, int(fetch.offsets[-1]) + 1, SIZE)
            driving.accept(0, fetch)
        try:
            await driving.run()
        except (RuntimeError, OSError) as error:
            return str(error)
        finally:
            driving.solo.stop()
        return ""

    return asyncio.run(main()), ledger.committable().get(HERE, 0)


def test_what_was_processed_before_the_handler_fails_is_delivered_and_done() -> None:
    handler, delivery = Notes(), Steered()

    def fail(fetches: list[Fetch]) -> None:
        if fetches[0].offsets[0] == 2 * SIZE:
            raise RuntimeError("broken on purpose")

    handler.before = fail
    # the first of two deliveries is still under way when the handler fails
    failure, done = drive(delivery, handler, lambda driving: driving.failure is not None)
    assert failure == "broken on purpose"
    assert delivery.delivered == [SIZE, 2 * SIZE]
    assert done == 2 * SIZE


def test_nothing_behind_what_could_not_be_delivered_is_done() -> None:
    handler, delivery = Notes(), Steered()
    delivery.fails_at = SIZE
    # the second batch is processed by then, and waits for the first
    failure, done = drive(delivery, handler, lambda driving: len(handler.seen) >= 2 * SIZE)
    assert failure == "no more space"
    assert delivery.delivered == []
    assert done == 0
