"""The development broker: it serves real clients, and no node outlives whoever started it."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError

from connectors.broker import Broker, find_java, jars, kafka_version, unavailable_reason
from connectors.broker.config import node_properties
from schemas.config import Kafka
from schemas.errors import SetupError

ROOT = Path(__file__).parents[1]
DEADLINE_SECONDS = 30.0


def processes_of(folder: Path) -> list[int]:
    """The processes that name the folder on their command line, by the system's own record."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command:
            found.append(int(entry.name))
    return found


def eventually(what: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return what()


def create_topic(bootstrap: str, topic: str, partitions: int = 1) -> None:
    with KafkaAdminClient(bootstrap_servers=bootstrap.split(",")) as admin:
        admin.create_topics([NewTopic(topic, partitions, -1)])


def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    with KafkaProducer(bootstrap_servers=bootstrap.split(","), acks="all") as producer:
        for future in [producer.send(topic, value) for value in values]:
            future.get(timeout=DEADLINE_SECONDS)


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap.split(","),
        auto_offset_reset="earliest",
        group_id=topic,
        # a client that joins its group before it knows the topic gets no partition, and looks
        # again only after this time
        metadata_max_age_ms=1000,
    )
    values: list[bytes] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        while len(values) < count and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=500).values():
                values += [record.value for record in records]
    finally:
        consumer.close()
    return values


def setting(bootstrap: str, topic: str, name: str) -> object:
    """What the broker itself says is in force for the topic."""
    with KafkaAdminClient(bootstrap_servers=bootstrap.split(",")) as admin:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        found = admin.describe_configs([resource], config_filter="all")
    return found["topic"][topic][name]["value"]


@pytest.mark.broker
def test_records_pass_through_the_shared_broker(broker: Kafka, topic_name: str) -> None:
    create_topic(broker.bootstrap, topic_name, partitions=3)
    sent = [b"record %d" % i for i in range(300)]
    produce(broker.bootstrap, topic_name, sent)
    assert sorted(consume(broker.bootstrap, topic_name, len(sent))) == sorted(sent)


@pytest.mark.broker
@pytest.mark.own_broker
def test_topics_do_not_appear_by_use(broker: Kafka, topic_name: str) -> None:
    client = KafkaProducer(bootstrap_servers=broker.bootstrap, max_block_ms=1500)
    with client as producer, pytest.raises(KafkaError):
        producer.send(topic_name, b"lost").get(timeout=5)
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
        assert topic_name not in admin.list_topics()


@pytest.mark.broker
@pytest.mark.own_broker
def test_stop_leaves_no_process_and_no_folder() -> None:
    with Broker() as broker:
        folder = broker.directory
        assert folder is not None
        assert broker.bootstrap.startswith("127.0.0.1:")
        assert len(processes_of(folder)) == 2  # the node and its guard
    assert processes_of(folder) == []
    assert not folder.exists()


@pytest.mark.broker
@pytest.mark.own_broker
def test_data_in_a_given_folder_survives(tmp_path: Path, topic_name: str) -> None:
    properties = {"message.max.bytes": 3 << 20}
    with Broker(directory=tmp_path / "data", properties=properties) as broker:
        create_topic(broker.bootstrap, topic_name)
        produce(broker.bootstrap, topic_name, [b"kept"])
    assert processes_of(tmp_path) == []
    with Broker(directory=tmp_path / "data", properties=properties) as broker:
        assert consume(broker.bootstrap, topic_name, 1) == [b"kept"]
        assert setting(broker.bootstrap, topic_name, "max.message.bytes") == str(3 << 20)
    with pytest.raises(SetupError, match=r"holds a cluster of 1 node\(s\), but 3"):
        Broker(nodes=3, directory=tmp_path / "data").start()


@pytest.mark.broker
@pytest.mark.own_broker
def test_a_failed_start_shows_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    broker = Broker(directory=tmp_path, properties={"num.io.threads": "many"})
    with pytest.raises(SetupError, match=r"ended by itself(.|\n)*num\.io\.threads"):
        broker.start()
    assert processes_of(tmp_path) == []


@pytest.mark.broker
@pytest.mark.own_broker
def test_a_busy_port_is_named(broker: Kafka) -> None:
    port = int(broker.bootstrap.rpartition(":")[2])
    with pytest.raises(SetupError, match=rf"port {port} on 127\.0\.0\.1 is in use"):
        Broker(port=port).start()


@pytest.mark.broker
@pytest.mark.own_broker
@pytest.mark.slow
@pytest.mark.usefixtures("nodes_may_die")
def test_three_nodes_survive_the_loss_of_one(topic_name: str) -> None:
    with Broker(nodes=3) as broker:
        assert broker.bootstrap.count(",") == 2
        create_topic(broker.bootstrap, topic_name, partitions=3)
        with KafkaAdminClient(bootstrap_servers=broker.bootstrap.split(",")) as admin:

            def replicas() -> set[int]:
                (topic,) = admin.describe_topics([topic_name])
                return {len(x["replica_nodes"]) for x in topic["partitions"]}

            # any node may be asked, and not each has heard of a new topic at once
            assert eventually(lambda: replicas() == {3})
        assert setting(broker.bootstrap, topic_name, "min.insync.replicas") == "2"
        produce(broker.bootstrap, topic_name, [b"before"])
        broker.kill(2)
        produce(broker.bootstrap, topic_name, [b"during"] * 9)
        broker.restart(2)
        produce(broker.bootstrap, topic_name, [b"after"])
        values = consume(broker.bootstrap, topic_name, 11)
        assert sorted(values) == [b"after", b"before", *[b"during"] * 9]
        folder = broker.directory
        assert folder is not None
    assert processes_of(folder) == []


@contextmanager
def python(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that ends with the block, whatever fails in it."""
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as own:
        try:
            yield own
        finally:
            own.kill()


STARTED_IN_A_THREAD = """
    import threading, time
    from connectors.broker import Broker
    from connectors.broker.guard import PARENT_CHECK_SECONDS
    broker = Broker()
    thread = threading.Thread(target=broker.start)
    thread.start()
    thread.join()
    time.sleep(2 * PARENT_CHECK_SECONDS)
    broker.check_alive()
    print(broker.directory, flush=True)
    time.sleep(600)
"""


@pytest.mark.broker
@pytest.mark.own_broker
def test_no_node_outlives_a_killed_parent() -> None:
    """Started in a thread that ends: the node outlives the thread but not the process."""
    with python(textwrap.dedent(STARTED_IN_A_THREAD)) as own:
        assert own.stdout is not None
        folder = Path(own.stdout.readline().strip())
        assert folder.is_dir()
        assert processes_of(folder)
        own.kill()
    assert eventually(lambda: not processes_of(folder))
    assert eventually(lambda: not folder.exists())


@pytest.mark.broker
@pytest.mark.own_broker
def test_no_node_outlives_a_killed_guard() -> None:
    with Broker() as broker:
        folder = broker.directory
        assert folder is not None
        (guard,) = [x for x in processes_of(folder) if b"guard.py" in read_command(x)]
        os.kill(guard, signal.SIGKILL)
        assert eventually(lambda: not processes_of(folder))
        with pytest.raises(SetupError, match="ended by itself"):
            broker.check_alive()


def read_command(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


@pytest.mark.broker
@pytest.mark.own_broker
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_runs_until_a_signal(number: signal.Signals) -> None:
    program = "from agents.cli_broker import broker; broker()"
    with python(program, "--port", "0", "--json") as own:
        assert own.stdout is not None
        facts = json.loads(own.stdout.readline())
        assert facts["kafka"] == kafka_version()
        assert facts["nodes"] == 1
        create_topic(facts["bootstrap"], "a-topic")
        own.send_signal(number)
        _, said = own.communicate(timeout=DEADLINE_SECONDS)
    assert own.returncode == 0, said
    assert "is ready" in said
    assert processes_of(Path(facts["directory"])) == []


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH, and an empty cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("EDDY_CACHE", str(tmp_path / "cache"))
    return folder


def fake_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_missing_java_is_named(bare_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/usr")  # only PATH counts
    with pytest.raises(SetupError, match=r"PATH has no `java`: install a Java runtime 17"):
        Broker().start()
    assert "install a Java runtime 17" in str(unavailable_reason())


def test_old_java_is_named(bare_path: Path) -> None:
    fake_program(bare_path / "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    with pytest.raises(SetupError, match=r"needs Java 17, .*java is 11"):
        find_java()


def test_broken_java_is_named(bare_path: Path) -> None:
    fake_program(bare_path / "java", "exit 1")
    assert "is no working Java" in str(unavailable_reason())


def test_missing_maven_is_named_only_without_jars(bare_path: Path) -> None:
    fake_program(bare_path / "java", "echo 'openjdk version \"21\" 2023-09-19' >&2")
    reason = str(unavailable_reason())
    assert "PATH has no `mvn`" in reason
    assert "install Apache Maven" in reason
    jars._cache_path().mkdir(parents=True)
    assert unavailable_reason() is None


def test_a_failed_fetch_shows_mavens_words_and_leaves_nothing(bare_path: Path) -> None:
    fake_program(bare_path / "mvn", "echo the shelf is empty; exit 3")
    with pytest.raises(SetupError, match=r"exit code 3(.|\n)*the shelf is empty"):
        jars.jars_directory()
    assert list(jars._cache_path().parent.iterdir()) == []


@pytest.mark.parametrize(("nodes", "replicas", "in_sync"), [(1, 1, 1), (2, 2, 1), (5, 3, 2)])
def test_replication_follows_the_size_of_the_cluster(
    nodes: int, replicas: int, in_sync: int
) -> None:
    found = node_properties(1, nodes, "127.0.0.1:1", "127.0.0.1:2", "1@127.0.0.1:2", Path("/x"))
    assert found["default.replication.factor"] == replicas
    assert found["transaction.state.log.replication.factor"] == replicas
    assert found["min.insync.replicas"] == in_sync


def test_a_broker_without_nodes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one node"):
        Broker(nodes=0)


def test_where_a_cluster_is_given_no_broker_is_started_and_ended() -> None:
    """Nobody listens there: a test that did not skip would fail."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "own_broker", __file__],
        cwd=ROOT,
        env={**os.environ, "EDDY_TEST_BOOTSTRAP": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "SKIPPED [1" in done.stdout
    assert "EDDY_TEST_BOOTSTRAP names one to keep" in done.stdout
