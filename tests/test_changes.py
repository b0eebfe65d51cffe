"""What changes around a running pipeline is noticed, told, and has a stated fate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient, TopicPartition
from structlog.testing import capture_logs

from agents.monitor import Monitor
from agents.serve import PipelineHandler
from connectors.base import Partition
from connectors.broker import Broker
from connectors.kafka import producer, thread
from connectors.kafka.admin import end_offsets, topic_partitions
from connectors.kafka.memo import Keeping, Memos
from connectors.storage import Storage
from schemas.config import Kafka
from tests.kafka_support import (
    COUNT,
    Notes,
    Running,
    committed,
    eventually,
    fill,
    outputs,
)
from tests.pipelines import config as pipeline_config
from tests.pipelines import document, payments
from tests.running import accounts, consume, wait_for, wait_for_messages, worker
from tests.test_cli import eddy

PATIENCE = 90.0


class Changes(Notes):
    """Notes also what the worker tells of topics and records."""

    def __init__(self, target: str | None = None) -> None:
        super().__init__(target)
        self.sizes: list[tuple[int, int]] = []
        self.gone: list[tuple[Partition, int, int]] = []

    def resized(self, topic: str, before: int, now: int) -> None:
        self.sizes.append((before, now))

    def expired(self, partition: Partition, first: int, end: int) -> None:
        self.gone.append((partition, first, end))


def read_all(config: Kafka, topic: str) -> bool:
    return committed(config, topic) == end_offsets(config, topic)


def add_partitions(config: Kafka, topic: str, count: int) -> None:
    with KafkaAdminClient(bootstrap_servers=config.bootstrap.split(",")) as admin:
        admin.create_partitions({topic: count})
    assert eventually(lambda: topic_partitions(config, topic) == count)


def expire(config: Kafka, topic: str, before: Mapping[int, int]) -> None:
    """Delete the records before some offsets, as retention does."""
    with KafkaAdminClient(bootstrap_servers=config.bootstrap.split(",")) as admin:
        admin.delete_records({TopicPartition(topic, n): at for n, at in before.items()})


@pytest.fixture
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as entries:
        yield entries


def said(logs: list[MutableMapping[str, Any]], words: str) -> list[MutableMapping[str, Any]]:
    return [entry for entry in logs if words in entry["event"]]


# -- more partitions -------------------------------------------------------------------------


@pytest.mark.broker
def test_partitions_that_are_added_are_told_and_read_from_their_beginning(
    config: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (thread, producer):
        monkeypatch.setattr(module, "METADATA_MS", 500)
    notes = Changes()
    with Running(config, topic, [topic], notes):
        assert eventually(lambda: read_all(config, topic))
        assert notes.sizes == [(4, 4)]
        add_partitions(config, topic, 6)
        fill(config, topic, outputs(topic, COUNT))
        assert eventually(lambda: len(end_offsets(config, topic)) == 6 and read_all(config, topic))
        assert notes.sizes == [(4, 4), (4, 6)]
    ends = end_offsets(config, topic)
    assert min(ends.values()) > 0
    wanted = [(x.number, offset) for x, end in ends.items() for offset in range(end)]
    assert sorted(notes.seen) == sorted(wanted)
    # and by a worker that was not there: one old partition's commit is enough to tell
    add_partitions(config, topic, 7)
    fill(config, topic, outputs(topic, COUNT))
    later = Changes()
    with Running(config, topic, [topic], later):
        assert eventually(lambda: read_all(config, topic))
        assert later.sizes == [(6, 7)]
    assert {offset for number, offset in later.seen if number == 6} == set(
        range(end_offsets(config, topic)[Partition(topic, 6)])
    )
    last = Changes()
    with Running(config, topic, [topic], last):
        assert eventually(lambda: last.sizes == [(7, 7)])


def test_what_more_partitions_mean_is_said(
    tmp_path: Path, logs: list[MutableMapping[str, Any]]
) -> None:
    handler = PipelineHandler(pipeline_config(), Storage(tmp_path))
    handler.resized("payments", 4, 4)
    assert logs == []
    handler.resized("payments", 4, 8)
    moved, share = logs
    assert "begin anew" in moved["event"]
    assert (moved["stream"], moved["before"], moved["now"]) == ("payments", 4, 8)
    assert "set `partitions`" in share["event"]
    assert (share["stated"], share["found"]) == (4, 8)
    assert share["budget"] == "2 times budget_per_day"


# -- retention -------------------------------------------------------------------------------


@pytest.mark.broker
def test_records_that_expired_unread_are_counted_and_told(
    config: Kafka, topic: str, logs: list[MutableMapping[str, Any]]
) -> None:
    with Running(config, topic, [topic], Notes()):
        assert eventually(lambda: read_all(config, topic))
    read = committed(config, topic)[Partition(topic, 2)]
    fill(config, topic, outputs(topic, COUNT))
    expire(config, topic, {2: read + 1000})
    notes = Changes()
    with Running(config, topic, [topic], notes):
        assert eventually(lambda: read_all(config, topic))
    assert notes.gone == [(Partition(topic, 2), read, read + 1000)]
    assert notes.starts[0][Partition(topic, 2)] == read + 1000
    [entry] = said(logs, "expired before they were read")
    assert (entry["log_level"], entry["lost"]) == ("error", 1000)
    assert entry["partition"] == f"{topic}/2"
    # a commit that could not be made yet is no reason to count them twice
    again = Changes()
    with Running(config, topic, [topic], again):
        assert eventually(lambda: bool(again.starts))
    assert again.gone == []


def test_expired_records_are_a_metric(tmp_path: Path) -> None:
    monitor = Monitor()
    handler = PipelineHandler(pipeline_config(), Storage(tmp_path), monitor=monitor)
    handler.expired(Partition("payments", 2), 100, 150)
    labels = {"topic": "payments", "partition": "2"}
    assert monitor.registry.get_sample_value("eddy_records_expired_total", labels) == 50


# -- storages --------------------------------------------------------------------------------


@pytest.mark.broker
@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_worker_with_a_storage_of_its_own_is_told(
    config: Kafka, topic: str, logs: list[MutableMapping[str, Any]], exactly_once: bool
) -> None:
    ones, others = Keeping("one", "/data on host-1"), Keeping("other", "/data on host-2")
    for keeping in (ones, ones, others):
        assert said(logs, "another storage") == []
        with Running(
            config, topic, [topic], Notes(), keeping=keeping, exactly_once=exactly_once
        ) as running:
            assert eventually(lambda: read_all(config, topic))
            assert eventually(lambda: running.worker.status().ready)
    [entry] = said(logs, "another storage")
    assert entry["log_level"] == "error"
    assert (entry["theirs"], entry["ours"]) == ("/data on host-1", "/data on host-2")
    assert entry["partitions"] == [f"{topic}/{number}" for number in range(4)]
    assert "s3://" in entry["event"]


def test_memos_fit_beside_an_offset_and_tell_storages_apart() -> None:
    place = Partition("payments", 0)
    long = [Keeping(f"s3://{'ä' * 4000}/{x}", f"{chr(1) * 9000} on host-{x}") for x in "ab"]
    texts = [Memos(keeping).of(place) for keeping in long]
    assert max(len(text.encode()) for text in texts) < 4096
    with capture_logs() as logs:
        Memos(long[0]).compare({place: texts[0]}, {"payments": 1})
        for strange in ("", "x", "null", "[]", '{"partitions": "x"}', "{" * 9000):
            Memos(long[0]).compare({place: strange}, {"payments": 1})
    assert logs == []
    with capture_logs() as logs:
        Memos(long[0]).compare({place: texts[1]}, {"payments": 1})
    assert len(logs) == 1


def test_a_storage_is_known_again_and_told_from_others(tmp_path: Path) -> None:
    one = Storage(tmp_path / "one")
    assert one.identify() == one.identify() == Storage(f"file://{tmp_path}/one").identify()
    assert one.identify() != Storage(tmp_path / "other").identify()


# -- windows, through the command ------------------------------------------------------------


@pytest.mark.broker
def test_other_windows_in_the_file_lead_to_a_new_model(
    broker: Broker, topic_name: str, tmp_path: Path
) -> None:
    made: dict[str, Any] = document(source={"topic": topic_name}, emit="all") | {
        "name": topic_name,
        "kafka": {"bootstrap": broker.bootstrap},
        "storage": str(tmp_path / "storage"),
        "partitions": 1,
        "checkpoints": {"rewind": 300},
    }
    pipeline, records = tmp_path / "pipeline.json", tmp_path / "records.jsonl"
    pipeline.write_bytes(msgspec.json.encode(made))
    records.write_bytes(b"\n".join(payments(2500)))
    for command in (("fit", pipeline, "-i", records), ("topics", pipeline, "--create")):
        assert eddy(*command).returncode == 0
    assert eddy("produce", pipeline, "-i", records).returncode == 0
    with worker(pipeline):
        wait_for(broker.bootstrap, f"{topic_name}.accounts", 2500, PATIENCE)
    scored = f"{topic_name}.payments.scored"
    before = len(consume(broker.bootstrap, scored))
    made["streams"]["payments"]["window"]["size"] = 6
    pipeline.write_bytes(msgspec.json.encode(made))
    assert eddy("produce", pipeline, "-i", records).returncode == 0
    with worker(pipeline):
        wait_for_messages(broker.bootstrap, f"{topic_name}.retrain", 1, PATIENCE)
    [account] = accounts(broker.bootstrap, f"{topic_name}.accounts")
    assert account.first_offset == 2500
    assert 2000 <= account.windowed == account.unscored <= 2500
    assert len(consume(broker.bootstrap, scored)) == before
    [request] = consume(broker.bootstrap, f"{topic_name}.retrain")
    assert msgspec.json.decode(request)["reason"] == "missing"
