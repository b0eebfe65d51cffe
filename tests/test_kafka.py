"""Publisher, sink, source and topics against a real broker."""

import asyncio
import ssl
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import OutOfOrderSequenceNumber
from kafka import KafkaAdminClient

from connectors.base import Origin, Output, Partition
from connectors.broker import Broker
from connectors.checkpoints import Checkpoints, Place
from connectors.kafka import publisher
from connectors.kafka.admin import (
    TopicSpec,
    _as_kafka,
    end_offsets,
    ensure_topics,
    identify,
    topic_partitions,
    wait_for_broker,
)
from connectors.kafka.client import aiokafka_settings, kafka_python_settings
from connectors.kafka.health import Health
from connectors.kafka.origin import HEADER, encode_origin
from connectors.kafka.publisher import Publisher
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from connectors.partitioner import partition_of
from connectors.storage import Storage
from schemas.config import Kafka
from schemas.errors import ConfigError, DataError, SetupError
from tests.kafka_support import eventually, fill, make_topic, outputs, read

NOBODY = Kafka(bootstrap="127.0.0.1:1")


def numbers_by_key(config: Kafka, topic: str) -> dict[bytes | None, list[int]]:
    found: defaultdict[bytes | None, list[int]] = defaultdict(list)
    for fetch in read(config, topic):
        for key, value in zip(fetch.keys, fetch.values, strict=True):
            found[key].append(int((value or b"").split(b" ")[0]))
    return dict(found)


@pytest.mark.broker
def test_everything_is_published_once_in_order_on_the_right_partition(
    config: Kafka, topic_name: str
) -> None:
    make_topic(config, topic_name)
    messages = outputs(topic_name, 20_000)
    fill(config, topic_name, messages)
    assert sum(end_offsets(config, topic_name).values()) == len(messages)
    fetches = read(config, topic_name)
    for fetch in fetches:
        assert {partition_of(key or b"", 4) for key in fetch.keys} == {fetch.partition.number}
    times = {int(v or 0): t for f in fetches for v, t in zip(f.values, f.timestamps, strict=True)}
    assert times == {i: (1_700_000_000_000 + i) * 1_000_000 for i in range(len(messages))}
    for numbers in numbers_by_key(config, topic_name).values():
        assert numbers == sorted(numbers)


@pytest.mark.broker
def test_messages_without_a_key_reach_every_partition(config: Kafka, topic_name: str) -> None:
    make_topic(config, topic_name)
    sink = KafkaSink(config)
    for _ in range(8):
        sink.write([Output(topic_name, None, b"x")] * 3)
    sink.close()
    assert set(end_offsets(config, topic_name).values()) == {6}


@pytest.mark.broker
def test_a_message_too_large_is_named_and_ends_its_partition(
    config: Kafka, topic_name: str
) -> None:
    make_topic(config, topic_name, partitions=2, max_message_bytes=20_000)
    # together far larger than the topic takes, singly not; random, or they would compress
    random = Random(1)
    keys = [f"k{k}".encode() for k in range(5)]
    messages = [
        Output(topic_name, keys[i % 5], b"%d " % i + random.randbytes(2048)) for i in range(60)
    ]
    huge = Output(topic_name, b"culprit", random.randbytes(80_000))
    sink = KafkaSink(config)
    with pytest.raises(DataError, match="80000 bytes and the key b'culprit' to"):
        sink.write([*messages[:30], huge, *messages[30:]])
    sink.close()
    found = numbers_by_key(config, topic_name)
    ends = {key: 30 if partition_of(key, 2) == partition_of(b"culprit", 2) else 60 for key in keys}
    assert set(ends.values()) == {30, 60}
    assert found == {key: list(range(k, ends[key], 5)) for k, key in enumerate(keys)}


@pytest.mark.broker
def test_a_missing_topic_is_waited_for(config: Kafka, topic_name: str) -> None:
    async def publish() -> None:
        publisher = Publisher(config)
        publishing = asyncio.create_task(publisher.publish([Output(topic_name, b"k", b"1")]))
        await asyncio.sleep(1.0)
        assert not publishing.done()
        await asyncio.to_thread(make_topic, config, topic_name)
        await asyncio.wait_for(publishing, 30)
        await publisher.stop()

    asyncio.run(publish())
    assert numbers_by_key(config, topic_name) == {b"k": [1]}


@pytest.mark.broker
def test_a_producer_that_the_broker_refuses_is_replaced(
    config: Kafka, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topic(config, topic_name)
    send_batch = AIOKafkaProducer.send_batch
    producers: list[int] = []

    async def refused(self: AIOKafkaProducer, *batch: object, **where: object) -> object:
        producers.append(id(self))
        if len(producers) in {2, 3}:
            raise OutOfOrderSequenceNumber
        return await send_batch(self, *batch, **where)

    monkeypatch.setattr(AIOKafkaProducer, "send_batch", refused)
    fill(config, topic_name, outputs(topic_name, 1000))
    assert len(set(producers)) == 2
    found = numbers_by_key(config, topic_name)
    assert found == {f"key-{k}".encode(): list(range(k, 1000, 50)) for k in range(50)}


@pytest.mark.broker
@pytest.mark.own_broker
@pytest.mark.slow
@pytest.mark.usefixtures("nodes_may_die")
def test_a_producer_that_gets_no_answer_is_replaced(
    topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "REPORT_SECONDS", 0.5)
    monkeypatch.setattr(publisher, "STALL_SECONDS", 2.0)
    with Broker() as broker:
        config = Kafka(bootstrap=broker.bootstrap)
        make_topic(config, topic_name)

        async def publish() -> None:
            health = Health()
            publishes = Publisher(config, health)
            await publishes.publish(outputs(topic_name, 100))
            broker.kill(1)
            publishing = asyncio.create_task(publishes.publish(outputs(topic_name, 900, first=100)))
            await asyncio.sleep(6)
            assert "cannot reach the broker" in health.reason
            await asyncio.to_thread(broker.restart, 1)
            await asyncio.wait_for(publishing, 40)
            assert health.ready
            await publishes.stop()

        asyncio.run(publish())
        found = numbers_by_key(config, topic_name)
        assert found == {f"key-{k}".encode(): list(range(k, 1000, 50)) for k in range(50)}


def test_a_sink_gives_up_on_a_broker_that_is_not_there() -> None:
    sink = KafkaSink(NOBODY, timeout_seconds=1.0)
    with pytest.raises(SetupError, match="cannot reach the broker"):
        sink.write([Output("t", None, b"x")])
    sink.close()
    sink.close()
    with pytest.raises(SetupError, match="closed"):
        sink.write([Output("t", None, b"x")])


@pytest.mark.broker
def test_a_source_reads_a_span_again_and_again(config: Kafka, topic_name: str) -> None:
    make_topic(config, topic_name, partitions=2)
    fill(config, topic_name, outputs(topic_name, 1000))
    by_time = KafkaSource(
        config,
        topic_name,
        since=1_700_000_000_100 * 1_000_000,
        until=1_700_000_000_200 * 1_000_000,
    )
    for _ in range(2):
        found = [int(value or 0) for fetch in by_time.fetches() for value in fetch.values]
        assert sorted(found) == list(range(100, 200))
    by_offset = KafkaSource(config, topic_name, since={0: 5}, until={0: 8, 1: 0})
    assert [x.offsets.tolist() for x in by_offset.fetches()] == [[5, 6, 7]]


@pytest.mark.broker
def test_a_source_ends_where_the_topic_ended_when_it_began(config: Kafka, topic_name: str) -> None:
    make_topic(config, topic_name)
    fill(config, topic_name, outputs(topic_name, 10))
    source = KafkaSource(config, topic_name)
    assert sum(map(len, source.fetches())) == 10
    fill(config, topic_name, outputs(topic_name, 10))
    assert sum(map(len, source.fetches())) == 10
    assert sum(map(len, KafkaSource(config, topic_name).fetches())) == 20


@pytest.mark.broker
def test_a_following_source_goes_on_until_it_is_closed(config: Kafka, topic_name: str) -> None:
    make_topic(config, topic_name, partitions=1)
    fill(config, topic_name, outputs(topic_name, 3))
    source = KafkaSource(config, topic_name, follow=True)
    seen = 0
    for fetch in source.fetches():
        seen += len(fetch)
        if seen == 3:
            fill(config, topic_name, outputs(topic_name, 4))
        if seen == 7:
            source.close()
            source.close()
    assert seen == 7


@pytest.mark.broker
def test_a_source_tells_where_records_were_first_read(config: Kafka, topic_name: str) -> None:
    make_topic(config, topic_name, partitions=1)
    true = Origin("elsewhere", 3, 12345678901)
    marked = Output(topic_name, b"k", b"v", 5, ((HEADER, encode_origin(true)),))
    fill(config, topic_name, [marked, Output(topic_name, b"k", b"v")])
    [fetch] = read(config, topic_name)
    assert fetch.origins == [true, Origin(topic_name, 0, 1)]


@pytest.mark.broker
def test_a_source_of_nothing_says_so(config: Kafka, topic_name: str) -> None:
    with pytest.raises(SetupError, match=f"no topic '{topic_name}'"):
        read(config, topic_name)
    with pytest.raises(ValueError, match="has no end"):
        KafkaSource(config, topic_name, until=5, follow=True)


@pytest.mark.broker
def test_topics_are_created_once_and_never_changed(config: Kafka, topic_name: str) -> None:
    topics = {topic_name: TopicSpec(3), f"{topic_name}-log": TopicSpec(1, compacted=True)}
    first = ensure_topics(config, topics)
    assert (first.created, first.existing, first.mismatched) == (list(topics), [], {})
    again = ensure_topics(config, topics)
    assert (again.created, again.existing, again.mismatched) == ([], list(topics), {})
    other = ensure_topics(config, {topic_name: TopicSpec(5)})
    assert other.mismatched == {topic_name: (3, 5)}
    assert topic_partitions(config, topic_name) == 3
    assert end_offsets(config, topic_name) == {Partition(topic_name, x): 0 for x in range(3)}


@pytest.mark.broker
def test_a_topic_is_made_even_if_the_broker_does_not_tell_its_settings(
    config: Kafka, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        msg = "Unrecognized ConfigSourceType: -1"
        raise ValueError(msg)

    monkeypatch.setattr(KafkaAdminClient, "_process_config", unknown)
    assert ensure_topics(config, {topic_name: TopicSpec(3)}).created == [topic_name]
    assert topic_partitions(config, topic_name) == 3


@pytest.mark.broker
def test_looking_at_a_missing_topic_does_not_create_it(config: Kafka, topic_name: str) -> None:
    assert topic_partitions(config, topic_name) is None
    with pytest.raises(SetupError, match="create it"):
        end_offsets(config, topic_name)
    assert topic_partitions(config, topic_name) is None


@pytest.mark.broker
def test_a_topic_made_again_has_another_id(config: Kafka, topic_name: str, tmp_path: Path) -> None:
    other = f"{topic_name}-other"
    make_topic(config, topic_name)
    make_topic(config, other)
    first = identify(config, [topic_name, other, f"{topic_name}-missing"])
    assert set(first.topic_ids) == {topic_name, other}
    assert first == identify(config, [topic_name, other])
    assert identify(config, []).topic_ids == {}
    with KafkaAdminClient(bootstrap_servers=config.bootstrap.split(",")) as admin:
        admin.delete_topics([topic_name])
    assert eventually(lambda: topic_name not in identify(config, [topic_name]).topic_ids)
    make_topic(config, topic_name)
    second = identify(config, [topic_name, other])
    assert second.cluster_id == first.cluster_id
    assert second.topic_ids[other] == first.topic_ids[other]
    assert second.topic_ids[topic_name] != first.topic_ids[topic_name]
    # both can be parts of the names of checkpoints
    checkpoints = Checkpoints(Storage(tmp_path), second.cluster_id)
    place = Place(Partition(topic_name, 0), second.topic_ids[topic_name])
    checkpoints.write(place, 1, 1, b"state")
    assert [x.data for x in checkpoints.candidates(place, 1)] == [b"state"]


def test_topic_ids_look_as_in_kafkas_own_tools() -> None:
    # what org.apache.kafka.common.Uuid prints for these bytes
    assert _as_kafka("00112233-4455-6677-8899-aabbccddeeff") == "ABEiM0RVZneImaq7zN3u_w"


@pytest.mark.broker
def test_a_broker_that_answers_is_not_waited_for(config: Kafka) -> None:
    wait_for_broker(config, deadline_seconds=0)


@pytest.mark.usefixtures("nodes_may_die")
def test_a_broker_that_is_not_there_is_named() -> None:
    with pytest.raises(SetupError, match=r"127\.0\.0\.1:1"):
        wait_for_broker(NOBODY, deadline_seconds=0)


def test_settings_reach_both_clients_and_no_secret_reaches_a_message() -> None:
    secret = "hunter2"
    settings = {
        "security_protocol": "sasl_plaintext",
        "sasl_plain_username": "eddy",
        "sasl_plain_password": secret,
    }
    config = Kafka(bootstrap="a:1, b:2", settings=settings)
    shared = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "eddy",
        "sasl_plain_password": secret,
    }
    assert aiokafka_settings(config) == {"bootstrap_servers": "a:1, b:2", **shared}
    assert kafka_python_settings(config) == {"bootstrap_servers": ["a:1", "b:2"], **shared}
    with pytest.raises(ConfigError) as caught:
        aiokafka_settings(Kafka(settings={**settings, "sasl_mechanisms": "PLAIN"}))
    assert "did you mean 'sasl_mechanism'" in str(caught.value)
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"security_protocol": "TLS"}, "not one of PLAINTEXT, SSL"),
        ({"security_protocol": "SASL_SSL"}, "sasl_plain_username is missing"),
        ({"security_protocol": "SSL", "ssl_cafile": "/nowhere.pem"}, "ssl_cafile=/nowhere.pem"),
    ],
)
def test_wrong_settings_are_told(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        aiokafka_settings(Kafka(settings=settings))


def test_tls_makes_a_context() -> None:
    arguments = kafka_python_settings(Kafka(settings={"security_protocol": "SSL"}))
    assert isinstance(arguments["ssl_context"], ssl.SSLContext)
