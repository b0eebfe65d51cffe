"""Exactly once on a real broker: whoever reads what is committed finds each message once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from functools import partial
from random import Random

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, for_code, kafka_errors

from connectors.base import Fetch, Output, Partition
from connectors.broker import Broker
from connectors.kafka.admin import end_offsets
from connectors.kafka.handler import Batch
from connectors.kafka.health import Health
from connectors.kafka.transactions import Transactions
from schemas.config import Kafka
from schemas.errors import DataError
from tests.kafka_support import (
    COUNT,
    Notes,
    Running,
    committed,
    eventually,
    fill,
    make_topic,
    outputs,
)
from tests.running import consume
from tests.worker_process import Process

pytestmark = pytest.mark.broker

ALL = list(range(COUNT))


def numbers(config: Kafka, topic: str, isolation_level: str = "read_committed") -> list[int]:
    """What an independent client reads."""
    return sorted(int(value) for value in consume(config.bootstrap, topic, isolation_level))


def done(config: Kafka, topic: str) -> bool:
    return committed(config, topic) == end_offsets(config, topic)


class Told(Notes):
    """Notes what it is told of commits, and takes some time over a batch."""

    def __init__(self, target: str, seconds: float = 0.0) -> None:
        super().__init__(target)
        self.told: dict[Partition, int] = {}
        self.before = lambda fetches: time.sleep(seconds)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        assert all(offset > self.told.get(place, -1) for place, offset in offsets.items())
        self.told.update(offsets)


def test_outputs_and_offsets_are_committed_together(config: Kafka, topic: str, target: str) -> None:
    told = Told(target)
    with Running(config, topic, [topic], told, exactly_once=True) as running:
        assert eventually(lambda: done(config, topic))
        assert numbers(config, target) == ALL
        status = running.worker.status()
        assert (status.ready, status.healthy, status.reason) == (True, True, "")
        assert eventually(lambda: set(running.worker.status().lag.values()) == {0})
        assert running.stop() < 5
    assert running.error is None
    assert told.told == end_offsets(config, topic)
    assert len(told.seen) == COUNT
    assert [x for x in told.events if x != "idle"] == ["assigned", "stop"]


@pytest.mark.parametrize("committed_all_the_same", [False, True])
def test_a_transaction_that_fails_is_aborted_and_done_again(
    config: Kafka,
    topic: str,
    target: str,
    committed_all_the_same: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = AIOKafkaProducer.commit_transaction
    calls: list[int] = []

    async def fragile(producer: AIOKafkaProducer) -> None:
        calls.append(1)
        fails = len(calls) in (2, 3, 7)
        if not fails or committed_all_the_same:
            await commit(producer)
        if fails:
            message = "broken on purpose"
            raise KafkaError(message)

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", fragile)
    told = Told(target)
    with Running(config, topic, [topic], told, batch=2000, exactly_once=True) as running:
        assert eventually(lambda: done(config, topic))
        assert eventually(lambda: running.worker.status().ready)
    assert running.error is None
    assert numbers(config, target) == ALL
    assert told.told == end_offsets(config, topic)
    everything = numbers(config, target, "read_uncommitted")
    assert set(everything) == set(ALL)
    assert (len(everything) == COUNT) == committed_all_the_same


# INVALID_PRODUCER_EPOCH, and PRODUCER_FENCED, by which other brokers tell the same
@pytest.mark.parametrize("code", [47, 90])
def test_a_worker_that_is_shut_out_gives_up_and_comes_back(
    config: Kafka, topic: str, target: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kafka_errors, 47, for_code(code))

    async def shut_out() -> None:
        other = AIOKafkaProducer(
            bootstrap_servers=config.bootstrap, transactional_id=f"{topic}-{topic}-1"
        )
        await other.start()
        await other.stop()

    told = Told(target, 0.02)
    with Running(config, topic, [topic], told, batch=500, exactly_once=True) as running:
        assert eventually(lambda: len(told.seen) > 3000)
        asyncio.run(shut_out())
        assert eventually(lambda: told.events.count("assigned") == 2)
        assert eventually(lambda: done(config, topic))
        assert eventually(lambda: running.worker.status().ready)
        assert len(running.worker.status().partitions) == 4
    assert running.error is None
    assert numbers(config, target) == ALL


def test_partitions_change_hands_between_transactions(
    config: Kafka, topic: str, target: str
) -> None:
    first, second = Told(target, 0.02), Told(target, 0.02)
    with Running(config, topic, [topic], first, batch=200, exactly_once=True) as one:
        assert eventually(lambda: len(first.seen) > 500)
        with Running(config, topic, [topic], second, batch=200, exactly_once=True) as two:
            assert eventually(lambda: len(two.worker.status().partitions) == 2)
            assert eventually(lambda: len(second.seen) > 500)
        assert eventually(lambda: len(one.worker.status().partitions) == 4)
        assert eventually(lambda: done(config, topic))
    assert (one.error, two.error) == (None, None)
    assert numbers(config, target) == ALL
    # everything under way was delivered before the partitions were given up
    assert len(first.seen) + len(second.seen) == COUNT


def test_a_barrier_comes_when_everything_is_committed(
    config: Kafka, topic: str, target: str
) -> None:
    class Barred(Told):
        wish = True

        def wants_barrier(self) -> bool:
            return self.wish and len(self.seen) > 3000

        def barrier(self, positions: Mapping[Partition, int]) -> Batch:
            self.wish = False
            self.events.append("barrier")
            assert committed(config, topic) == positions
            assert {x: y for x, y in positions.items() if y} == self.told
            assert len(numbers(config, target)) == sum(positions.values()) == len(self.seen)
            return Batch({Partition(topic, 0): [Output(target, b"barrier", b"-1")]})

    barred = Barred(target)
    with Running(config, topic, [topic], barred, batch=1000, exactly_once=True) as running:
        assert eventually(lambda: running.error is not None or done(config, topic))
    assert running.error is None
    assert "barrier" in barred.events
    assert numbers(config, target) == [-1, *ALL]


def test_a_missing_topic_is_waited_for(config: Kafka, topic: str, topic_name: str) -> None:
    missing = f"{topic_name}.later"
    with Running(config, topic, [topic], Notes(missing), exactly_once=True) as running:
        assert eventually(lambda: missing in running.worker.status().reason)
        assert set(committed(config, topic).values()) == {0}
        make_topic(config, missing)
        assert eventually(lambda: done(config, topic))
        assert eventually(lambda: running.worker.status().ready)
    assert numbers(config, missing) == ALL


def test_a_message_that_no_topic_takes_ends_the_worker_and_its_transaction(
    config: Kafka, topic: str, target: str
) -> None:
    class Large(Notes):
        def process(self, fetches: list[Fetch]) -> Batch:
            batch = super().process(fetches)
            large = Output(target, b"large", Random(0).randbytes(2 << 20))
            return Batch({x: [*y, large] for x, y in batch.outputs.items()}, batch.positions)

    with Running(config, topic, [topic], Large(target), exactly_once=True) as running:
        assert eventually(lambda: not running.alive)
    assert isinstance(running.error, DataError)
    assert "larger than their topic takes" in str(running.error)
    assert set(committed(config, topic).values()) == {0}
    # aborted rather than left open: nobody who reads waits for it
    fill(config, target, outputs(target, 1))
    assert eventually(lambda: numbers(config, target) == [0], 10)


def test_what_follows_from_several_partitions_is_refused(config: Kafka) -> None:
    async def commit_of(partition: Partition) -> int:
        return 0

    async def deliver() -> None:
        transactions = Transactions(config, "group", commit_of, lambda partition: "", Health())
        await transactions.deliver(Batch(merged=[Output("topic", b"k", b"v")]))

    with pytest.raises(ValueError, match="several partitions"):
        asyncio.run(deliver())


def test_sigterm_delivers_and_leaves(
    config: Kafka, topic: str, target: str, processes: list[Process]
) -> None:
    one = Process(config, topic, target, sleep=0.3, exactly_once=True)
    processes.append(one)
    assert eventually(lambda: one.said("processed"))
    one.signal(signal.SIGTERM)
    assert one.ends(10) < 5
    assert one.process.returncode == 0
    found = numbers(config, target)
    assert 0 < len(found) == len(set(found)) == sum(committed(config, topic).values())


@pytest.mark.slow
def test_killed_workers_lose_and_repeat_nothing(
    config: Kafka, topic: str, target: str, processes: list[Process]
) -> None:
    random = Random(0)
    for _ in range(4):
        one = Process(config, topic, target, sleep=0.01, batch=300, exactly_once=True)
        processes.append(one)
        assert eventually(partial(one.said, "processed", random.randint(2, 12)))
        one.signal(signal.SIGKILL)
        one.ends(5)
    with Running(config, topic, [topic], Notes(target), exactly_once=True):
        assert eventually(lambda: done(config, topic))
    assert numbers(config, target) == ALL


@pytest.mark.slow
def test_a_frozen_worker_that_wakes_up_repeats_nothing_and_comes_back(
    config: Kafka, topic: str, target: str, processes: list[Process]
) -> None:
    frozen = Process(config, topic, target, sleep=0.05, batch=300, exactly_once=True)
    processes.append(frozen)
    assert eventually(lambda: frozen.said("processed", 5))
    frozen.signal(signal.SIGSTOP)
    # its session ends 10 s later, and then this one takes over
    told = Told(target, 0.05)
    with Running(config, topic, [topic], told, batch=300, exactly_once=True) as running:
        assert eventually(lambda: len(running.worker.status().partitions) == 4)
        assert eventually(lambda: len(told.seen) > 1000)
        frozen.signal(signal.SIGCONT)
        assert eventually(lambda: frozen.said("assigned 2"))
        assert eventually(lambda: len(running.worker.status().partitions) == 2)
        fill(config, topic, outputs(topic, 2000, first=COUNT))
        assert eventually(lambda: done(config, topic))
        before = len(frozen.lines)
        fill(config, topic, outputs(topic, 2000, first=COUNT + 2000))
        assert eventually(lambda: len(frozen.lines) > before)
        assert eventually(lambda: done(config, topic))
    assert running.error is None
    assert numbers(config, target) == list(range(COUNT + 4000))
    frozen.signal(signal.SIGTERM)
    assert frozen.ends(10) < 10
    assert frozen.process.returncode == 0


@pytest.mark.own_broker
@pytest.mark.slow
@pytest.mark.usefixtures("nodes_may_die")
def test_a_broker_that_comes_back_is_found_again(topic_name: str) -> None:
    with Broker() as broker:
        config = Kafka(bootstrap=broker.bootstrap)
        target = f"{topic_name}.out"
        make_topic(config, topic_name)
        make_topic(config, target)
        fill(config, topic_name, outputs(topic_name, COUNT))
        told = Told(target, 0.1)
        with Running(
            config, topic_name, [topic_name], told, batch=1000, exactly_once=True
        ) as running:
            assert eventually(lambda: len(told.seen) > 2000)
            broker.kill(1)
            assert eventually(lambda: not running.worker.status().ready)
            broker.restart(1)
            assert eventually(lambda: running.worker.status().ready, 90)
            assert eventually(lambda: done(config, topic_name), 90)
        assert running.error is None
        assert numbers(config, target) == ALL
