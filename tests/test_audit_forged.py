"""Each kind of discrepancy is found, by its name, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
from kafka import KafkaAdminClient, TopicPartition

from agents.audit import Audit, audit
from agents.topics import pipeline_topics
from connectors.base import Output
from connectors.broker import Broker
from connectors.kafka.admin import ensure_topics
from schemas.config import Pipeline as Config
from tests.auditing import STREAM, Forgery, configured, honest, publish
from tests.kafka_support import fill, make_topic
from tests.pipelines import fitted, payments
from tests.test_audit import numbered
from tests.test_restore import STREAMS, models_of, records

pytestmark = pytest.mark.broker

TOPIC = "audited.in"


@dataclass
class Made:
    """A topic of records, and what a worker makes of it."""

    broker: Broker
    honest: Forgery

    def config(self, name: str, **changes: object) -> Config:
        return configured(self.broker.bootstrap, name, TOPIC, id="number", **changes)

    def audit(self, name: str, forge: Callable[[Forgery], None], **changes: object) -> Audit:
        config, forged = self.config(name, **changes), copy.deepcopy(self.honest)
        forge(forged)
        publish(config, forged)
        return audit(config)


@pytest.fixture(scope="module")
def made(broker: Broker) -> Made:
    config = configured(broker.bootstrap, "audited", TOPIC, id="number")
    ensure_topics(config.kafka, pipeline_topics(config))
    values = numbered(1500, seed=2)
    keys = [f"card-{i % 7}".encode() for i in range(len(values))]
    fill(config.kafka, TOPIC, [Output(TOPIC, *x) for x in zip(keys, values, strict=True)])
    model = fitted(config).speaking(STREAM, "pca")
    assert model is not None
    return Made(broker, honest(config, {"pca": model}))


def drop_letter(forged: Forgery) -> None:
    del forged.letters[3]


def unfounded_letter(forged: Forgery) -> None:
    bad = {(letter.partition, letter.offset) for letter in forged.letters}
    good = next(i for i in range(1000) if (0, i) not in bad)
    forged.letters.append(msgspec.structs.replace(forged.letters[0], partition=0, offset=good))


def letter_of_nothing(forged: Forgery) -> None:
    forged.letters.append(msgspec.structs.replace(forged.letters[0], offset=10**6))


def letter_of_another_topic(forged: Forgery) -> None:
    forged.letters.append(msgspec.structs.replace(forged.letters[0], topic="another"))


def drop_event(forged: Forgery) -> None:
    forged.scored = [x for i, x in enumerate(forged.scored) if i != 100 or x.is_anomaly]


def invent_event(forged: Forgery) -> None:
    forged.scored.append(forged.change_event(0, event_id="0" * 32, is_anomaly=False))


def contradict_event(forged: Forgery) -> None:
    forged.scored.append(forged.change_event(0, first_offset=forged.scored[0].first_offset + 1))


def event_of_nothing(forged: Forgery) -> None:
    forged.scored[5] = forged.change_event(5, first_offset=10**6)


def event_of_no_partition(forged: Forgery) -> None:
    forged.scored.append(forged.change_event(5, event_id="0" * 32, partition=7))


def drop_anomaly(forged: Forgery) -> None:
    index = next(i for i, x in enumerate(forged.scored) if x.is_anomaly)
    forged.scored[index] = forged.change_event(index, is_anomaly=False)


def drop_incident(forged: Forgery) -> None:
    gone = forged.incidents[0].incident_id
    forged.incidents = [x for x in forged.incidents if x.incident_id != gone]


def unbalanced(forged: Forgery) -> None:
    forged.change_account(windowed=1)


def one_record_more(forged: Forgery) -> None:
    forged.change_account(windowed=1, records_in=1)


def one_record_less(forged: Forgery) -> None:
    forged.change_account(windowed=-1, records_in=-1)


def hide_a_dead_letter(forged: Forgery) -> None:
    forged.change_account(dead_letter=-1, windowed=1)


def hide_a_duplicate(forged: Forgery) -> None:
    forged.change_account(duplicate=-1, windowed=1)


def invent_a_filtered(forged: Forgery) -> None:
    forged.change_account(filtered=1, windowed=-1)


def account_of_the_future(forged: Forgery) -> None:
    forged.change_account(last_offset=1000)


def windows_not_scored(forged: Forgery) -> None:
    forged.change_account(windows=1)


def no_account(forged: Forgery) -> None:
    del forged.accounts[0]


def commit_beyond_the_log(forged: Forgery) -> None:
    forged.commits = {place: at + 5 for place, at in forged.commits.items()}


FORGERIES: list[tuple[Callable[[Forgery], None], set[str]]] = [
    (drop_letter, {"dead-letter-missing"}),
    (unfounded_letter, {"dead-letter-unfounded"}),
    (letter_of_nothing, {"dead-letter-nowhere"}),
    (letter_of_another_topic, {"dead-letter-nowhere"}),
    (drop_event, {"events"}),
    (invent_event, {"events"}),
    (contradict_event, {"event-conflict"}),
    (event_of_nothing, {"event-nowhere"}),
    (event_of_no_partition, {"event-nowhere"}),
    (drop_anomaly, {"anomalies"}),
    (drop_incident, {"incidents"}),
    (unbalanced, {"account-balance"}),
    (one_record_more, {"records"}),
    (one_record_less, {"records"}),
    (hide_a_dead_letter, {"dead-letter"}),
    (hide_a_duplicate, {"duplicate"}),
    (invent_a_filtered, {"filtered"}),
    (account_of_the_future, {"account-range"}),
    (windows_not_scored, {"account-windows"}),
    (no_account, {"no-account"}),
    (commit_beyond_the_log, {"commit"}),
]


def test_what_is_honest_balances(made: Made) -> None:
    assert made.honest.letters
    assert made.honest.incidents
    found = made.audit("honest", lambda forged: None)
    assert found.problems == []
    assert found.balanced
    assert {note.check for note in found.notes} == {"late"}
    assert [row.events for row in found.partitions] == [a.scored for a in made.honest.accounts]
    assert [row.duplicates for row in found.partitions] == [
        a.duplicate for a in made.honest.accounts
    ]


@pytest.mark.parametrize(("forge", "checks"), FORGERIES, ids=lambda x: getattr(x, "__name__", ""))
def test_what_is_forged_is_found(
    made: Made, forge: Callable[[Forgery], None], checks: set[str]
) -> None:
    found = made.audit(forge.__name__, forge)
    assert {problem.check for problem in found.problems} == checks, found.problems
    assert not found.balanced
    off = {problem.partition for problem in found.problems} - {None}
    assert off == {row.partition for row in found.partitions if not row.balanced}


@pytest.mark.parametrize("unaccounted", [0, 150], ids=["settled", "under way"])
@pytest.mark.parametrize("kind", STREAMS)
def test_windows_of_all_kinds_balance(
    broker: Broker, topic_name: str, kind: str, unaccounted: int
) -> None:
    topic = f"{topic_name}.in"
    config = configured(broker.bootstrap, topic_name, topic, **STREAMS[kind])
    ensure_topics(config.kafka, pipeline_topics(config))
    values = [value for value in records(600, 1) if value is not None]
    keys = [f"{i % 7}".encode() for i in range(len(values))]
    fill(config.kafka, topic, [Output(topic, *x) for x in zip(keys, values, strict=True)])
    forged = honest(config, models_of(kind), unaccounted)
    publish(config, forged)
    found = audit(config)
    assert found.problems == []
    assert sum(row.events for row in found.partitions) == len(forged.scored) > 30
    assert ("account-behind" in {note.check for note in found.notes}) == (unaccounted > 0)
    forged.scored = forged.scored[20:]
    again = configured(broker.bootstrap, f"{topic_name}-2", topic, **STREAMS[kind])
    publish(again, forged)
    assert "events" in {problem.check for problem in audit(again).problems}


def test_what_retention_took_is_told(broker: Broker, topic_name: str) -> None:
    topic = f"{topic_name}.in"
    config = configured(broker.bootstrap, topic_name, topic, id="number")
    ensure_topics(config.kafka, pipeline_topics(config))
    values = numbered(1500, seed=2)
    keys = [f"card-{i % 7}".encode() for i in range(len(values))]
    fill(config.kafka, topic, [Output(topic, *x) for x in zip(keys, values, strict=True)])
    models = {"pca": fitted(config).speaking(STREAM, "pca")}
    forged = honest(config, models)  # type: ignore[arg-type]
    publish(config, forged)
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
        admin.delete_records({TopicPartition(topic, 0): 200, TopicPartition(topic, 1): 300})
    found = audit(config)
    assert found.problems == []
    assert [row.log_begin for row in found.partitions] == [200, 300]
    assert {"log-moved", "dead-letter-old"} <= {note.check for note in found.notes}
    forged.change_account(dead_letter=1, windowed=-1)
    assert audit(config).balanced  # it may have been among the records that are gone
    forged.change_account(dead_letter=200)
    again = configured(broker.bootstrap, f"{topic_name}-2", topic, id="number")
    publish(again, forged)
    problems = {problem.check for problem in audit(again).problems}
    assert problems == {"account-balance", "dead-letter"}


def test_a_compacted_topic_may_lack_any_record(broker: Broker, topic_name: str) -> None:
    topic = f"{topic_name}.in"
    config = configured(broker.bootstrap, topic_name, topic)
    make_topic(config.kafka, topic, 2, compacted=True)
    ensure_topics(config.kafka, pipeline_topics(config))
    fill(config.kafka, topic, [Output(topic, b"k", value) for value in payments(50)])
    models = {"pca": fitted(config).speaking(STREAM, "pca")}
    forged = honest(config, models)  # type: ignore[arg-type]
    forged.change_account(records_in=7, windowed=7)
    publish(config, forged)
    found = audit(config)
    assert found.balanced
    assert "log-moved" in {note.check for note in found.notes}


def twice(forged: Forgery) -> None:
    forged.scored += forged.scored[:10]
    forged.letters += forged.letters[:2]


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_what_is_published_again_is_counted(made: Made, delivery: str) -> None:
    found = made.audit(f"twice-{delivery}", twice, delivery=delivery)
    assert sum(row.events_repeated for row in found.partitions) == 10
    assert found.balanced == (delivery == "at_least_once")
    told = found.notes if found.balanced else found.problems
    assert "event-repeated" in {finding.check for finding in told}
    assert "dead-letter-repeated" in {finding.check for finding in found.notes}


def not_committed(forged: Forgery) -> None:
    forged.commits = {place: at - 20 for place, at in forged.commits.items()}


def test_what_is_published_and_not_committed_is_told(made: Made) -> None:
    found = made.audit("not-committed", not_committed)
    assert found.balanced
    assert {"event-uncommitted", "account-ahead"} <= {note.check for note in found.notes}
    assert all(0 < row.events_uncommitted <= 20 for row in found.partitions)


def test_nothing_there_yet_balances(made: Made) -> None:
    config = made.config("nothing-yet")
    publish(config, Forgery())
    found = audit(config)
    assert found.balanced
    assert {row.committed for row in found.partitions} == {None}
