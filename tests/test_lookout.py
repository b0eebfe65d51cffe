"""A stream to which nobody sends: told once by its id, and closed by whoever sees it end."""

from __future__ import annotations

import time
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from agents.lookout import Lookout
from agents.publish import Envelope
from agents.serve import PipelineHandler
from agents.topics import pipeline_topics
from connectors.base import Output, Partition
from connectors.broker import Broker
from connectors.kafka.admin import Ends, ensure_topics, topic_ends
from connectors.storage import Storage
from schemas import messages
from schemas.config import Pipeline as Config
from schemas.errors import SetupError
from schemas.messages import Incident
from schemas.topics import Topics
from tests.auditing import configured
from tests.kafka_support import Running, eventually, fill
from tests.pipelines import config, payments
from tests.running import consume

MINUTE = 60 * 10**9
PLACE = Partition("payments", 0)
START = 1_000_000 * MINUTE


class Watch:
    """A lookout whose clock and broker a test moves."""

    def __init__(self, folder: Path, partitions: tuple[Partition, ...] = (PLACE,)) -> None:
        self.minutes = 0
        self.ends: Ends | SetupError = Ends({0: 5, 1: 7}, START)
        self.settings: Config = config(alerts={"silence": "15m"})
        self.folder = folder
        self.lookout = self._made(partitions)

    def _made(self, partitions: tuple[Partition, ...]) -> Lookout:
        lookout = Lookout(
            self.settings,
            Storage(self.folder),
            Envelope(Topics("eddy")),
            self._look,
            lambda: START + self.minutes * MINUTE,
            lambda: float(self.minutes),
            every=1.0,
        )
        lookout.begin(partitions)
        return lookout

    def _look(self, topic: str) -> Ends:
        assert topic == "payments"
        if isinstance(self.ends, SetupError):
            raise self.ends
        return self.ends

    def restart(self) -> None:
        self.lookout.stop()
        self.lookout = self._made((PLACE,))

    def pass_minutes(self, count: int, done: int = 0) -> list[Incident]:
        said: list[Incident] = []
        for _ in range(count):
            self.minutes += 1
            for more in (1, 2):  # the look begins, and is judged
                outputs = self.lookout.tick({PLACE: done})
                said += [messages.decode(x.value, Incident) for x in outputs.get(PLACE, [])]
                looks = [c.looking for c in self.lookout._courses.values() if c.looking]
                wait(looks if more == 1 else [])
        return said

    @property
    def kept(self) -> list[str]:
        return Storage(self.folder).list("silences")


def test_nothing_for_the_limit_is_one_incident(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    assert watch.pass_minutes(14) == []
    [opened] = watch.pass_minutes(20)
    assert (opened.kind, opened.state, opened.severity) == ("stream_silence", "open", "high")
    assert (opened.first_event, opened.opened_at) == (START, START + 15 * MINUTE)
    assert "nothing has come since" in opened.summary
    watch.ends = Ends({0: 6, 1: 7}, START + 34 * MINUTE)
    [closed] = watch.pass_minutes(10)
    assert (closed.incident_id, closed.state) == (opened.incident_id, "closed")
    assert closed.last_event == START + 34 * MINUTE
    [second] = watch.pass_minutes(30)
    assert second.incident_id != opened.incident_id


def test_a_restart_repeats_the_incident_and_nothing_else(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    [opened] = watch.pass_minutes(30)
    watch.restart()
    [again] = watch.pass_minutes(30)
    assert again == opened


def test_another_worker_closes_what_one_opened(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    [opened] = watch.pass_minutes(30)
    watch.ends = Ends({0: 5, 1: 8}, START + 30 * MINUTE)
    watch.restart()
    [closed] = watch.pass_minutes(3)
    assert (closed.incident_id, closed.state) == (opened.incident_id, "closed")
    watch.restart()  # before anything showed that the closing was published
    [repeated] = watch.pass_minutes(3, done=4)
    assert repeated == closed
    assert watch.kept
    watch.lookout.committed({PLACE: 4})  # of what was done before
    assert watch.kept
    watch.lookout.committed({PLACE: 5})
    assert not watch.kept
    watch.restart()
    assert watch.pass_minutes(3) == []


def test_records_with_old_times_are_no_silence(tmp_path: Path) -> None:
    watch, said = Watch(tmp_path), []
    for end in range(60):  # a history is being produced, older than the limit
        watch.ends = Ends({0: end}, START - 10**6 * MINUTE)
        said += watch.pass_minutes(1)
    assert said == []
    [opened] = watch.pass_minutes(15)
    assert opened.first_event == START + 60 * MINUTE


def test_only_the_worker_with_the_lowest_partition_looks(tmp_path: Path) -> None:
    assert Watch(tmp_path, (Partition("payments", 1),)).pass_minutes(30) == []


def test_a_broker_that_does_not_answer_is_no_silence(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    ends, watch.ends = watch.ends, SetupError("away on purpose")
    assert watch.pass_minutes(30) == []
    watch.ends = ends
    assert [x.state for x in watch.pass_minutes(3)] == ["open"]


@pytest.mark.broker
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_silent_topic_is_told_across_workers(
    broker: Broker, topic_name: str, tmp_path: Path, delivery: str
) -> None:
    topic = f"{topic_name}.in"
    settings = configured(
        broker.bootstrap, topic_name, topic, alerts={"silence": "15m"}, delivery=delivery
    )
    ensure_topics(settings.kafka, pipeline_topics(settings))
    skew = 0

    def send(value: bytes) -> None:
        fill(settings.kafka, topic, [Output(topic, b"k", value)])

    def run() -> Running:
        handler = PipelineHandler(
            settings,
            Storage(tmp_path),
            look=lambda name: topic_ends(settings.kafka, name),
            look_seconds=0.05,
            clock=lambda: time.time_ns() + skew,
        )
        names = Topics(settings.name)
        once: dict[str, Any] = {"exactly_once": delivery == "exactly_once"}
        return Running(
            settings.kafka, names.worker_group, [topic], handler, tick_seconds=0.05, **once
        )

    def told() -> list[Incident]:
        values = consume(broker.bootstrap, f"{topic_name}.payments.alerts")
        return [messages.decode(value, Incident) for value in values]

    send(payments(1)[0])
    with run():
        assert eventually(lambda: bool(consume(broker.bootstrap, f"{topic_name}.accounts")))
        assert told() == []
        skew = 3600 * 10**9
        assert eventually(lambda: len(told()) == 1)
    with run():
        assert eventually(lambda: len(told()) == 2)
    skew = 0
    send(payments(1)[0])
    with run():
        assert eventually(lambda: len(told()) == 3)
    opened, again, closed = told()
    assert opened == again
    assert (closed.incident_id, closed.state) == (opened.incident_id, "closed")
