"""Workers in processes of their own: stopped, frozen and killed, each by a signal."""

import signal
import time
from functools import partial

import pytest

from connectors.kafka.admin import end_offsets
from schemas.config import Kafka
from tests.kafka_support import COUNT, Notes, Running, committed, eventually, values
from tests.worker_process import Process


@pytest.mark.broker
def test_sigterm_publishes_commits_and_leaves(
    config: Kafka, topic: str, target: str, processes: list[Process]
) -> None:
    one = Process(config, topic, target, sleep=0.3)
    processes.append(one)
    assert eventually(lambda: one.said("processed"))
    one.signal(signal.SIGTERM)
    assert one.ends(10) < 5
    assert one.process.returncode == 0
    assert one.said("ended")
    out = sum(end_offsets(config, target).values())
    assert 0 < out < COUNT
    assert out == sum(committed(config, topic).values())


@pytest.mark.broker
def test_sigterm_ends_a_worker_that_is_joining(
    config: Kafka, topic: str, processes: list[Process]
) -> None:
    frozen = Process(config, topic, sleep=0.1)
    processes.append(frozen)
    assert eventually(lambda: frozen.said("processed"))
    frozen.signal(signal.SIGSTOP)
    # its session lasts 10 s more, until which no join is answered
    joining = Process(config, topic)
    processes.append(joining)
    assert eventually(lambda: joining.said("started"))
    time.sleep(3.5)
    assert not joining.said("processed")
    joining.signal(signal.SIGTERM)
    assert joining.ends(10) < 9.5
    assert joining.process.returncode == 0
    frozen.signal(signal.SIGCONT)


@pytest.mark.broker
@pytest.mark.slow
def test_a_frozen_worker_that_wakes_up_drops_what_it_has_in_hand(
    config: Kafka, topic: str, target: str, processes: list[Process]
) -> None:
    frozen = Process(config, topic, target, sleep=0.05, batch=300)
    processes.append(frozen)
    assert eventually(lambda: frozen.said("processed", 3))
    frozen.signal(signal.SIGSTOP)
    with Running(config, topic, [topic], Notes(target)) as running:  # once its session has ended
        assert eventually(lambda: sum(committed(config, topic).values()) == COUNT)
        there = sum(end_offsets(config, target).values())
        frozen.signal(signal.SIGCONT)
        assert eventually(lambda: frozen.said("assigned 2"))
        assert eventually(lambda: len(running.worker.status().partitions) == 2)
    assert running.error is None
    assert frozen.said("this worker was not run for")
    # no more than the one batch that it was publishing
    assert sum(end_offsets(config, target).values()) - there <= 300


@pytest.mark.broker
def test_sigterm_ends_a_worker_that_waits_for_its_broker(processes: list[Process]) -> None:
    one = Process(Kafka(bootstrap="127.0.0.1:1"), "nothing")
    processes.append(one)
    assert eventually(lambda: one.said("started"))
    time.sleep(1.5)
    one.signal(signal.SIGTERM)
    assert one.ends(10) < 3
    assert one.process.returncode == 0


@pytest.mark.broker
def test_sigterm_ends_a_worker_whose_handler_hangs(
    config: Kafka, topic: str, processes: list[Process]
) -> None:
    one = Process(config, topic, sleep=60)
    processes.append(one)
    assert eventually(lambda: set(committed(config, topic).values()) == {0})
    time.sleep(0.5)
    one.signal(signal.SIGTERM)
    assert one.ends(11) < 10
    assert one.process.returncode == 0  # nothing is lost: it is read again
    assert set(committed(config, topic).values()) == {0}


@pytest.mark.broker
@pytest.mark.parametrize("exactly_once", [False, True])
def test_sigterm_ends_a_worker_whose_restore_hangs(
    config: Kafka, topic: str, processes: list[Process], exactly_once: bool
) -> None:
    one = Process(config, topic, restore=60, exactly_once=exactly_once)
    processes.append(one)
    assert eventually(lambda: one.said("assigned"))
    one.signal(signal.SIGTERM)
    assert one.ends(11) < 10
    assert one.process.returncode == 0
    # it has left its group, which gives all partitions to another one at once
    other = Notes()
    with Running(config, topic, [topic], other):
        assert eventually(lambda: len(other.seen) == COUNT)


@pytest.mark.broker
def test_sigterm_ends_an_idle_worker(config: Kafka, topic: str, processes: list[Process]) -> None:
    one = Process(config, topic)
    processes.append(one)
    assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
    one.signal(signal.SIGTERM)
    assert one.ends(10) < 5
    assert one.process.returncode == 0
    assert one.said("ended")


@pytest.mark.broker
def test_a_killed_worker_loses_nothing(
    config: Kafka, topic: str, target: str, processes: list[Process]
) -> None:
    for _ in range(2):
        one = Process(config, topic, target, sleep=0.2)
        processes.append(one)
        assert eventually(partial(one.said, "processed"))
        time.sleep(0.7)
        one.signal(signal.SIGKILL)
        one.ends(5)
    notes = Notes(target)
    with Running(config, topic, [topic], notes):
        assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
    published = sorted({int(x or 0) for x in values(config, target)})
    assert published == list(range(COUNT))
