"""The worker against a real broker: nothing lost, nothing committed early, stopped in time."""

import threading
import time
from collections.abc import Mapping

import pytest
from kafka import KafkaAdminClient, TopicPartition

from connectors.base import Fetch, Origin, Output, Partition
from connectors.broker import Broker
from connectors.kafka.admin import end_offsets
from connectors.kafka.handler import Batch
from connectors.kafka.origin import HEADER, encode_origin
from connectors.kafka.polls import Poll
from connectors.kafka.rekey import Rekeyer
from connectors.kafka.source import KafkaSource
from connectors.kafka.thread import ConsumerThread
from connectors.kafka.worker import KafkaWorker
from schemas.config import Kafka
from schemas.errors import ConfigError, SetupError
from tests.kafka_support import (
    COUNT,
    Notes,
    Running,
    committed,
    eventually,
    fill,
    make_topic,
    outputs,
    values,
)


def consecutive(seen: list[tuple[int, int]]) -> bool:
    """Whether of each partition every offset came exactly once and in order."""
    by_number: dict[int, list[int]] = {}
    for number, offset in seen:
        by_number.setdefault(number, []).append(offset)
    return all(x == list(range(x[0], x[0] + len(x))) for x in by_number.values())


@pytest.mark.broker
def test_every_record_is_processed_once_published_and_committed(
    config: Kafka, topic: str, target: str
) -> None:
    notes = Notes(target)
    with Running(config, topic, [topic], notes) as running:
        assert eventually(lambda: sum(end_offsets(config, target).values()) == COUNT)
        assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
        status = running.worker.status()
        assert (status.ready, status.healthy, status.reason) == (True, True, "")
        assert status.partitions == {Partition(topic, x) for x in range(4)}
        assert eventually(lambda: set(running.worker.status().lag.values()) == {0})
        assert running.stop() < 5
    assert running.error is None
    assert len(notes.seen) == COUNT
    assert consecutive(notes.seen)
    assert len(notes.threads) == 1
    assert [x for x in notes.events if x != "idle"] == ["assigned", "stop"]
    assert sorted(int(x or 0) for x in values(config, target)) == list(range(COUNT))


@pytest.mark.broker
def test_a_restart_goes_on_where_the_commit_is(config: Kafka, topic: str) -> None:
    first = Notes()
    with Running(config, topic, [topic], first, batch=500):
        assert eventually(lambda: len(first.seen) > 1000)
    second = Notes()
    with Running(config, topic, [topic], second):
        assert eventually(lambda: len(first.seen) + len(second.seen) == COUNT)
    assert consecutive(first.seen + second.seen)


@pytest.mark.broker
def test_a_handler_that_fails_ends_the_worker_and_leaves_its_records_uncommitted(
    config: Kafka, topic: str
) -> None:
    notes = Notes()
    given: list[Fetch] = []

    def fail(fetches: list[Fetch]) -> None:
        if len(notes.seen) > 5000:
            given.extend(fetches)
            message = "broken on purpose"
            raise RuntimeError(message)

    notes.before = fail
    with Running(config, topic, [topic], notes, batch=2000) as running:
        assert eventually(lambda: not running.alive)
    assert str(running.error) == "broken on purpose"
    assert "stop" not in notes.events
    done = committed(config, topic)
    for fetch in given:
        assert done[fetch.partition] <= fetch.offsets[0]
    # and what was published before the failure is committed
    assert sum(done.values()) == len(notes.seen)


@pytest.mark.broker
def test_a_handler_that_hangs_is_left_behind_uncommitted(config: Kafka, topic: str) -> None:
    notes = Notes()
    hanging, release = threading.Event(), threading.Event()

    def hang(fetches: list[Fetch]) -> None:
        hanging.set()
        release.wait(60)

    notes.before = hang
    with Running(config, topic, [topic], notes, unhealthy_seconds=0.2) as running:
        assert hanging.wait(20)
        assert eventually(lambda: not running.worker.status().healthy, 5)
        assert "busy with one call" in running.worker.status().reason
        assert running.stop() < 10
    release.set()
    assert set(committed(config, topic).values()) == {0}


@pytest.mark.broker
def test_nothing_is_committed_before_it_is_published(
    config: Kafka, topic: str, topic_name: str
) -> None:
    missing = f"{topic_name}.later"
    notes = Notes(missing)
    with Running(config, topic, [topic], notes) as running:
        assert eventually(lambda: missing in running.worker.status().reason)
        assert not running.worker.status().ready
        time.sleep(1.5)
        assert set(committed(config, topic).values()) == {0}
        make_topic(config, missing)
        assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
        assert running.worker.status().ready
    assert len(values(config, missing)) == COUNT


@pytest.mark.broker
def test_a_slow_handler_stops_the_fetching_and_loses_nothing(config: Kafka, topic: str) -> None:
    notes = Notes()
    notes.before = lambda fetches: time.sleep(0.05)
    with Running(config, topic, [topic], notes, batch=1000):
        assert eventually(lambda: len(notes.seen) == COUNT)
    assert consecutive(notes.seen)


@pytest.mark.broker
def test_a_missing_topic_is_waited_for(config: Kafka, topic_name: str) -> None:
    notes = Notes()
    with Running(config, topic_name, [topic_name], notes, unhealthy_seconds=0.5) as running:
        assert eventually(lambda: f"no topic {topic_name}" in running.worker.status().reason)
        assert eventually(lambda: not running.worker.status().healthy, 5)
        make_topic(config, topic_name)
        fill(config, topic_name, outputs(topic_name, 10))
        assert eventually(lambda: len(notes.seen) == 10)
        assert running.worker.status().healthy


def test_a_missing_broker_is_waited_for_and_named() -> None:
    with Running(Kafka(bootstrap="127.0.0.1:1"), "g", ["t"], Notes()) as running:
        assert eventually(
            lambda: "no broker answers at 127.0.0.1:1" in str(running.worker.status())
        )
        assert not running.worker.status().ready
        assert running.stop() < 3


def test_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        KafkaWorker(Kafka(settings={"ssl_ca_file": "x"}), "g", ["t"], Notes())


@pytest.mark.broker
def test_a_second_worker_takes_its_share_and_gives_it_back(config: Kafka, topic: str) -> None:
    first, second = Notes(), Notes()
    for notes in (first, second):
        notes.before = lambda fetches: time.sleep(0.02)
    with Running(config, topic, [topic], first, batch=200) as one:
        assert eventually(lambda: len(first.seen) > 500)
        with Running(config, topic, [topic], second, batch=200) as two:
            assert eventually(lambda: len(two.worker.status().partitions) == 2)
            assert eventually(lambda: len(one.worker.status().partitions) == 2)
            assert eventually(lambda: one.worker.status().ready)
            kept = one.worker.status().partitions
            assert kept.isdisjoint(two.worker.status().partitions)
            assert eventually(lambda: len(second.seen) > 500)
        assert eventually(lambda: len(one.worker.status().partitions) == 4)
        assert eventually(lambda: len(first.seen) + len(second.seen) >= COUNT)
        assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
    # in order and undisturbed, so not even repeated
    assert sorted(first.seen + second.seen) == sorted(set(first.seen + second.seen))
    assert len(first.seen) + len(second.seen) == COUNT
    assert first.events.count("revoked") == 2


@pytest.mark.broker
def test_partitions_stay_with_their_worker_where_they_can(config: Kafka, topic_name: str) -> None:
    make_topic(config, topic_name, partitions=6)

    def shares(*running: Running) -> list[frozenset[Partition]]:
        wanted = 6 // len(running)
        has = [x.worker.status for x in running]
        assert eventually(lambda: all(len(x().partitions) == wanted and x().ready for x in has))
        return [x().partitions for x in has]

    with Running(config, topic_name, [topic_name], Notes()) as one:
        shares(one)
        with Running(config, topic_name, [topic_name], Notes()) as two:
            of_two = shares(one, two)
            with Running(config, topic_name, [topic_name], Notes()) as three:
                of_three = shares(one, two, three)
                assert of_three[0] < of_two[0]
                assert of_three[1] < of_two[1]
            back = shares(one, two)
            assert back[0] > of_three[0]
            assert back[1] > of_three[1]


@pytest.mark.broker
def test_a_crash_of_the_framework_is_survived(
    config: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls: list[int] = []
    poll = ConsumerThread.poll

    async def fragile(self: ConsumerThread, wanted: set[Partition], seconds: float) -> Poll:
        polls.append(1)
        if len(polls) == 3:
            message = "broken on purpose"
            raise RuntimeError(message)
        return await poll(self, wanted, seconds)

    monkeypatch.setattr(ConsumerThread, "poll", fragile)
    notes = Notes()
    with Running(config, topic, [topic], notes) as running:
        assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
        assert eventually(lambda: running.worker.status().ready)
        assert running.stop() < 5
    assert running.error is None
    assert notes.events.count("revoked") == 1
    assert len(set(notes.seen)) == COUNT


@pytest.mark.broker
def test_records_are_rewritten_by_entity_in_time_order(
    config: Kafka, topic: str, target: str
) -> None:
    """The records of each entity come from all partitions and end up in the order of time."""

    class Rewriting(Notes):
        rekeyer = Rekeyer(target, lambda fetch: [x and x[-1:] for x in fetch.values])

        def assigned(
            self, committed: Mapping[Partition, int], generation: int
        ) -> Mapping[Partition, int]:
            self.rekeyer.assign(committed)
            return super().assigned(committed, generation)

        def process(self, fetches: list[Fetch]) -> Batch:
            super().process(fetches)
            return self.rekeyer.add(fetches, running.worker.exhausted())

        def idle(self) -> Batch:
            return self.rekeyer.add([], running.worker.exhausted())

    with Running(config, topic, [topic], Rewriting(), batch=700, tick_seconds=0.05) as running:
        assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
    assert running.error is None
    by_key: dict[bytes | None, list[int]] = {}
    for fetch in KafkaSource(config, target).fetches():
        for key, value in zip(fetch.keys, fetch.values, strict=True):
            by_key.setdefault(key, []).append(int(value or 0))
    assert by_key == {b"%d" % x: list(range(x, COUNT, 10)) for x in range(10)}


@pytest.mark.broker
def test_a_worker_without_partitions_is_ready(config: Kafka, topic_name: str) -> None:
    make_topic(config, topic_name, partitions=1)
    with Running(config, topic_name, [topic_name], Notes()) as one:
        assert eventually(lambda: one.worker.status().ready)
        with Running(config, topic_name, [topic_name], Notes()) as two:
            assert eventually(lambda: two.worker.status().ready and one.worker.status().ready)
            both = [one.worker.status().partitions, two.worker.status().partitions]
            assert sorted(map(len, both)) == [0, 1]


@pytest.mark.broker
def test_the_first_assignment_commits_where_it_begins(config: Kafka, topic: str) -> None:
    notes = Notes()
    with Running(config, topic, [topic], notes, reset="latest") as running:
        assert eventually(lambda: running.worker.status().ready)
        assert committed(config, topic) == end_offsets(config, topic)
    fill(config, topic, outputs(topic, 10))
    with Running(config, topic, [topic], notes, reset="latest"):
        assert eventually(lambda: len(notes.seen) == 10)


@pytest.mark.broker
def test_a_handler_may_read_again_to_restore_its_state(config: Kafka, topic: str) -> None:
    with Running(config, topic, [topic], Notes()):
        assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
    ends = end_offsets(config, topic)

    class Restoring(Notes):
        def assigned(
            self, committed: Mapping[Partition, int], generation: int
        ) -> Mapping[Partition, int]:
            super().assigned(committed, generation)
            return {x: y - 100 for x, y in committed.items() if x.number == 1}

    notes = Restoring()
    with Running(config, topic, [topic], notes):
        assert eventually(lambda: len(notes.seen) == 100)
        fill(config, topic, outputs(topic, 50))
        assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
    assert notes.starts == [ends]
    assert notes.seen[0] == (1, ends[Partition(topic, 1)] - 100)
    assert len(notes.seen) == 150


@pytest.mark.broker
def test_records_that_expired_unread_are_passed_over(config: Kafka, topic: str) -> None:
    notes = Notes()
    with Running(config, topic, [topic], notes):
        assert eventually(lambda: len(notes.seen) == COUNT)
    fill(config, topic, outputs(topic, COUNT))
    gone = committed(config, topic)[Partition(topic, 2)] + 1000
    with KafkaAdminClient(bootstrap_servers=config.bootstrap.split(",")) as admin:
        admin.delete_records({TopicPartition(topic, 2): gone})
    again = Notes()
    with Running(config, topic, [topic], again):
        assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
    assert min(x[1] for x in again.seen if x[0] == 2) == gone
    assert len(set(again.seen)) == COUNT - 1000


@pytest.mark.broker
def test_a_restore_from_before_the_log_begins_where_the_log_does(config: Kafka, topic: str) -> None:
    with Running(config, topic, [topic], Notes()):
        assert eventually(lambda: committed(config, topic) == end_offsets(config, topic))
    ends = end_offsets(config, topic)
    with KafkaAdminClient(bootstrap_servers=config.bootstrap.split(",")) as admin:
        admin.delete_records({TopicPartition(topic, 2): ends[Partition(topic, 2)] - 10})

    class Restoring(Notes):
        def assigned(
            self, committed: Mapping[Partition, int], generation: int
        ) -> Mapping[Partition, int]:
            super().assigned(committed, generation)
            return dict.fromkeys(committed, 0)

    notes = Restoring()
    with Running(config, topic, [topic], notes):
        assert eventually(lambda: len([x for x in notes.seen if x[0] == 2]) == 10)
        # none of these records counts as unpublished
        assert notes.starts == [ends]


@pytest.mark.broker
def test_a_handler_that_cannot_take_on_partitions_ends_the_worker(
    config: Kafka, topic: str
) -> None:
    class Refusing(Notes):
        def assigned(
            self, committed: Mapping[Partition, int], generation: int
        ) -> Mapping[Partition, int]:
            message = "no such checkpoint"
            raise RuntimeError(message)

    with Running(config, topic, [topic], Refusing()) as running:
        assert eventually(lambda: not running.alive)
    assert str(running.error) == "no such checkpoint"


@pytest.mark.broker
def test_a_barrier_comes_when_everything_is_published_and_committed(
    config: Kafka, topic: str, target: str
) -> None:
    class Barred(Notes):
        wish = True

        def wants_barrier(self) -> bool:
            return self.wish and len(self.seen) > 3000

        def barrier(self, positions: Mapping[Partition, int]) -> Batch:
            self.wish = False
            self.events.append("barrier")
            assert committed(config, topic) == positions
            # another worker may have published for all that was there before
            assert sum(positions.values()) == len(self.seen) == COUNT
            assert sum(end_offsets(config, target).values()) == len(self.seen)
            return Batch({Partition(topic, 0): [Output(target, b"barrier", b"-1")]})

    notes = Barred(target)
    with Running(config, topic, [topic], notes, batch=1000) as running:
        assert eventually(lambda: sum(end_offsets(config, target).values()) == COUNT + 1)
    assert running.error is None
    assert "barrier" in notes.events


@pytest.mark.broker
def test_followed_topics_are_read_first_and_kept_up_with(config: Kafka, topic: str) -> None:
    control = f"{topic}.control"
    make_topic(config, control, partitions=2, compacted=True)
    fill(config, control, outputs(control, 5))
    heard: list[bytes | None] = []
    notes = Notes()
    notes.before = lambda fetches: notes.events.append(f"heard {len(heard)}")

    def hear(key: bytes | None, value: bytes | None, offset: int) -> None:
        notes.threads.add(threading.get_ident())
        heard.append(value)

    with Running(config, topic, [topic], notes, follow={control: hear}):
        assert eventually(lambda: len(notes.seen) == COUNT)
        assert next(x for x in notes.events if x.startswith("heard")) == "heard 5"
        fill(config, control, outputs(control, 2, first=5))
        assert eventually(lambda: len(heard) == 7)
    assert sorted(heard, key=str) == [str(i).encode() for i in range(7)]
    assert len(notes.threads) == 1


@pytest.mark.broker
def test_a_callback_that_fails_ends_the_worker(config: Kafka, topic: str) -> None:
    def hear(key: bytes | None, value: bytes | None, offset: int) -> None:
        message = "cannot apply"
        raise RuntimeError(message)

    control = f"{topic}.control"
    make_topic(config, control, partitions=1)
    fill(config, control, outputs(control, 1))
    notes = Notes()
    with Running(config, topic, [topic], notes, follow={control: hear}) as running:
        assert eventually(lambda: not running.alive)
    assert str(running.error) == "cannot apply"
    assert notes.seen == []


@pytest.mark.broker
def test_the_handler_learns_what_is_exhausted(config: Kafka, topic_name: str) -> None:
    make_topic(config, topic_name, partitions=3)
    fill(config, topic_name, outputs(topic_name, 500, keys=1))
    [full] = [x for x, end in end_offsets(config, topic_name).items() if end]
    notes = Notes()
    found: list[tuple[int, set[Partition]]] = []

    def note(fetches: list[Fetch]) -> None:
        given = len(notes.seen) + sum(map(len, fetches))
        found.append((given, running.worker.exhausted()))

    notes.before = note
    with Running(config, topic_name, [topic_name], notes, batch=90, tick_seconds=0.1) as running:
        assert eventually(lambda: len(running.worker.exhausted()) == 3)
        assert len(notes.seen) == 500
        fill(config, topic_name, outputs(topic_name, 100, keys=1))
        assert eventually(lambda: len(notes.seen) == 600)
    assert len(found) >= 8
    for given, exhausted in found:
        assert full not in exhausted or given >= 500


@pytest.mark.broker
def test_a_rewritten_record_tells_its_origin(config: Kafka, topic_name: str) -> None:
    make_topic(config, topic_name, partitions=1)
    true = Origin("raw", 7, 70)
    fill(config, topic_name, [Output(topic_name, b"k", b"v", 9, ((HEADER, encode_origin(true)),))])
    notes = Notes()
    with Running(config, topic_name, [topic_name], notes):
        assert eventually(lambda: len(notes.seen) == 1)
    [fetch] = notes.fetches
    assert fetch.origins == [true]
    assert fetch.timestamps.tolist() == [9_000_000]


@pytest.mark.broker
def test_a_worker_whose_state_cannot_be_restored_yet_waits_and_stops(
    config: Kafka, topic: str
) -> None:
    class Waiting(Notes):
        away = True

        def assigned(
            self, committed: Mapping[Partition, int], generation: int
        ) -> Mapping[Partition, int]:
            if self.away:
                message = "storage /data is away"
                raise SetupError(message)
            return super().assigned(committed, generation)

    notes = Waiting()
    with Running(config, topic, [topic], notes, unhealthy_seconds=0.5) as running:
        assert eventually(lambda: "storage /data is away" in running.worker.status().reason)
        assert not running.worker.status().ready
        assert eventually(lambda: not running.worker.status().healthy)
        notes.away = False
        assert eventually(lambda: len(notes.seen) == COUNT)
        assert eventually(lambda: running.worker.status().healthy)
    notes.away = True
    with Running(config, topic, [topic], notes) as running:
        assert eventually(lambda: "storage /data is away" in running.worker.status().reason)
        assert running.stop() < 5
    assert running.error is None


@pytest.mark.broker
@pytest.mark.own_broker
@pytest.mark.slow
@pytest.mark.usefixtures("nodes_may_die")
def test_a_broker_that_comes_back_is_found_again(topic_name: str) -> None:
    with Broker() as broker:
        config = Kafka(bootstrap=broker.bootstrap)
        make_topic(config, topic_name)
        make_topic(config, f"{topic_name}.out")
        fill(config, topic_name, outputs(topic_name, COUNT))
        notes = Notes(f"{topic_name}.out")
        notes.before = lambda fetches: time.sleep(0.1)
        with Running(config, topic_name, [topic_name], notes, batch=1000) as running:
            assert eventually(lambda: len(notes.seen) > 2000)
            broker.kill(1)
            assert eventually(lambda: not running.worker.status().ready)
            time.sleep(3)
            broker.restart(1)
            assert eventually(lambda: running.worker.status().ready, 90)
            ends = end_offsets(config, topic_name)
            assert eventually(lambda: committed(config, topic_name) == ends, 90)
        assert running.error is None
        published = {int(x or 0) for x in values(config, f"{topic_name}.out")}
        assert published == set(range(COUNT))
