"""What the re-keying stage writes again after a crash is windowed once."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.account import Ledger
from agents.pipeline import Pipeline
from agents.rekey import RekeyHandler
from agents.repeats import Repeats
from agents.topics import pipeline_topics
from connectors.base import Fetch, Origin, Output, Partition, flatten
from connectors.kafka.admin import end_offsets, ensure_topics
from connectors.kafka.handler import Batch
from connectors.kafka.polls import Committed
from connectors.kafka.records import to_fetch
from connectors.kafka.thread import ConsumerThread
from connectors.partitioner import partition_of
from schemas import messages
from schemas.config import Kafka
from schemas.config import Pipeline as Config
from schemas.messages import DeadLetter, ScoredEvent
from schemas.parse import parse_pipeline
from schemas.topics import Topics
from tests.kafka_support import Running, committed, eventually, fill, make_topic, read
from tests.pipelines import START_MS, config, document, fitted, payments

MS = 1_000_000
KEYED = Partition("payments.keyed", 0)


def keyed(origins: Sequence[Origin], times: Sequence[int] | None = None) -> Fetch:
    n = len(origins)
    given_times = np.zeros(n, np.int64) if times is None else np.array(times, np.int64) * MS
    names = [b"%d/%d" % (x.partition, x.offset) for x in origins]
    return Fetch(KEYED, np.arange(n), given_times, [None] * n, names, list(origins))


class Record(NamedTuple):
    partition: int
    offset: int
    time: int


class Writers:
    """Writers of one partition; each begins at the commit and goes on in each source's order.

    Those before the last one have been fenced and do not know: what they still write arrives, too.
    """

    def __init__(self, sources: list[list[int]]) -> None:
        self.sources = sources
        self.committed = [0] * len(sources)
        self.writers = [[0] * len(sources)]
        self.log: list[Record] = []

    def write(self, who: int, source: int) -> None:
        position = self.writers[-1 - who % len(self.writers)]
        source %= len(self.sources)
        at = position[source]
        if at < len(self.sources[source]):
            # only every third offset is of a key of this partition
            self.log.append(Record(source, 3 * at, self.sources[source][at]))
            position[source] += 1

    def commit(self, source: int) -> None:
        source %= len(self.sources)
        self.committed[source] = self.writers[-1][source]

    def follow(self) -> None:
        self.writers.append(list(self.committed))

    def finish(self) -> None:
        for source, times in enumerate(self.sources):
            for _ in times:
                self.write(0, source)


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[list[int]], list[Record]]:
    sources = draw(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=3))
    writers = Writers(sources)
    small = st.integers(0, 2)
    for action in draw(st.lists(st.tuples(st.integers(0, 9), small, small), max_size=60)):
        match action:
            case (0, _, _):
                writers.follow()
            case (1 | 2, source, _):
                writers.commit(source)
            case (_, who, source):
                writers.write(who, source)
    writers.finish()
    return sources, writers.log


@given(logs(), st.lists(st.integers(0, 80), max_size=8), st.booleans())
def test_each_record_passes_once_and_in_order_whoever_writes(
    made: tuple[list[list[int]], list[Record]], cuts: list[int], restored: bool
) -> None:
    sources, log = made
    whole = keyed([Origin("payments", *x[:2]) for x in log], [x.time for x in log])
    repeats, passed = Repeats("payments"), []
    edges = [0, *sorted(min(cut, len(log)) for cut in cuts), len(log)]
    for first, end in itertools.pairwise(edges):
        part = repeats.drop(whole[first:end])
        passed += [*zip(part.sources(), part.values, part.offsets.tolist(), strict=True)]
        if restored:
            state = repeats.state()
            repeats = Repeats("payments")
            repeats.restore(state)
    for number, times in enumerate(sources):
        mine = [origin.offset for origin, _, _ in passed if origin.partition == number]
        assert mine == list(range(0, 3 * len(times), 3))
    # it is the first copy of each, with everything that belongs to it
    first_copies = list(dict.fromkeys(x[:2] for x in log))
    assert [(origin.partition, origin.offset) for origin, _, _ in passed] == first_copies
    assert [at for _, _, at in passed] == [
        [x[:2] for x in log].index(place) for place in first_copies
    ]
    assert [value for _, value, _ in passed] == [b"%d/%d" % place for place in first_copies]


def test_other_records_pass() -> None:
    repeats = Repeats("payments")
    plain = Fetch(KEYED, np.arange(2), np.zeros(2, np.int64), [None] * 2, [b"", b""])
    assert repeats.drop(plain) is plain
    # records that somebody wrote by hand, or that another stage had rewritten before
    others = keyed([Origin(KEYED.topic, 0, 7), Origin("first", 1, 5), Origin("first", 1, 5)])
    assert repeats.drop(others) is others
    assert repeats.state() == {"partition": [], "offset": [], "timestamp": []}
    mixed = keyed([others.sources()[1], Origin("payments", 1, 5), *[Origin("payments", 1, 5)] * 2])
    assert repeats.drop(mixed).values == [b"1/5", b"1/5"]


def test_a_source_topic_made_again_begins_a_new_count() -> None:
    repeats = Repeats("payments")
    offsets = [0, 1, 2, 3, 2, 3, 0, 1, 0, 1, 2]
    times = [10, 20, 15, 40, 15, 40, 50, 45, 50, 45, 60]
    fetch = keyed([Origin("payments", 0, x) for x in offsets], times)
    expected = [0, 1, 2, 3, 6, 7, 10]
    assert repeats.drop(fetch).offsets.tolist() == expected
    one_by_one = Repeats("payments")
    passed = [len(one_by_one.drop(fetch[i : i + 1])) for i in range(len(fetch))]
    assert np.flatnonzero(passed).tolist() == expected
    assert one_by_one.state() == repeats.state()


# -- the stage and the pipeline together ------------------------------------------------------

SOURCES, PARTITIONS, RECORDS = 3, 2, 240


def made() -> Config:
    return config(key_partitioned=False, window={"kind": "sliding", "size": 4, "stride": 2})


def source_fetches() -> list[Fetch]:
    """Records of every card on every partition, in order of time; some cannot be decoded."""
    dealt: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
    for i, value in enumerate(payments(RECORDS, seed=3)):
        dealt[i % SOURCES].append((START_MS + i * 1000, b"{" if i % 29 == 7 else value))
    return [
        Fetch(
            Partition("payments", number),
            np.arange(len(rows)),
            np.array([at for at, _ in rows]) * MS,
            [None] * len(rows),
            [value for _, value in rows],
        )
        for number, rows in dealt.items()
    ]


def write(logs: list[list[Output]], outputs: Sequence[Output], shares: Sequence[float]) -> None:
    """Append outputs to the log of their partition; of each partition's only a share arrives."""
    lanes: list[list[Output]] = [[] for _ in logs]
    for output in outputs:
        lanes[partition_of(output.key or b"", len(logs))].append(output)
    for log, lane, share in zip(logs, lanes, shares, strict=True):
        log += lane[: round(share * len(lane))]


class Crash(NamedTuple):
    """A worker processes some steps, commits after some of these, and breaks off in writing."""

    steps: int
    committed: int
    shares: tuple[float, float]


share = st.floats(0, 1)
crashes = st.lists(
    st.builds(Crash, st.integers(1, 6), st.integers(0, 4), st.tuples(share, share)), max_size=4
)


def rewritten(crashes: list[Crash], step: int) -> list[list[Output]]:
    """Return what the re-keying stage has written to each partition in the end."""
    logs: list[list[Output]] = [[] for _ in range(PARTITIONS)]
    fetches = source_fetches()
    ends = {x.partition: len(x) for x in fetches}
    committed = dict.fromkeys(ends, 0)
    for crash in [*crashes, None]:
        given_to = dict(committed)
        handler = RekeyHandler(
            made(),
            "payments",
            lambda given_to=given_to: [p for p in ends if given_to[p] == ends[p]],  # type: ignore[misc]
        )
        handler.assigned(committed, 1)
        steps = 0
        while given_to != ends and (crash is None or steps < crash.steps):
            parts = [x[given_to[x.partition] :][:step] for x in fetches]
            for part in parts:
                given_to[part.partition] += len(part)
            batch = handler.process([part for part in parts if len(part)])
            steps += 1
            last = crash is not None and steps == crash.steps
            write(logs, batch.merged, crash.shares if crash is not None and last else (1, 1))
            if not last and (crash is None or steps <= crash.committed):
                committed |= batch.positions
    return logs


def windowed(logs: list[list[Output]], cut: int) -> tuple[dict[str, ScoredEvent], Any, Ledger]:
    """Return scored events by id, dead letters by origin, and the account."""
    pipeline = Pipeline(made(), lambda: 0)
    pipeline.apply("payments", "pca", model())
    outputs = []
    for number, log in enumerate(logs):
        records = [
            SimpleNamespace(
                offset=at, timestamp=x.timestamp_ms, key=x.key, value=x.value, headers=x.headers
            )
            for at, x in enumerate(log)
        ]
        for first in range(0, len(records), cut):
            part = to_fetch(Partition("payments.keyed", number), records[first : first + cut])
            outputs += flatten(pipeline.process([part]).outputs)
    events = [messages.decode(x.value, ScoredEvent) for x in outputs if x.topic.endswith("scored")]
    letters = [messages.decode(x.value, DeadLetter) for x in outputs if x.topic.endswith("letters")]
    by_id = {event.event_id: event for event in events}
    assert len(by_id) == len(events)
    assert all(state.ledger.balanced for state in pipeline._states.values())
    places = sorted((x.topic, x.partition, x.offset, x.reason) for x in letters)
    return by_id, places, pipeline.totals()["payments"]


_MODEL: list[Any] = []


def model() -> Any:
    if not _MODEL:
        _MODEL.append(fitted(made())._models["payments", "pca"])
    return _MODEL[0]


@given(crashes, st.integers(3, 40), st.integers(20, 90))
@settings(max_examples=30, deadline=None)
def test_crashes_of_the_stage_change_nothing(crashes: list[Crash], step: int, cut: int) -> None:
    undisturbed = rewritten([], step)
    disturbed = rewritten(crashes, step)
    repeated = sum(map(len, disturbed)) - sum(map(len, undisturbed))
    events, letters, account = windowed(undisturbed, 50)
    found, found_letters, found_account = windowed(disturbed, cut)
    assert len(letters) == len([i for i in range(RECORDS) if i % 29 == 7])
    assert found_letters == letters
    assert (account.duplicate, found_account.duplicate) == (0, repeated)
    assert found_account.windowed == account.windowed
    assert found.keys() == events.keys()
    for event_id, event in events.items():
        assert found[event_id].score == pytest.approx(event.score, rel=1e-5, abs=1e-6)
        assert found[event_id].window_end == event.window_end


def test_a_crash_repeats_records() -> None:
    """Or the test above would say nothing."""
    crash = Crash(steps=3, committed=1, shares=(1.0, 0.5))
    assert sum(map(len, rewritten([crash], 10))) > RECORDS + 30


@pytest.mark.broker
def test_a_worker_that_follows_a_crashed_one_repeats_and_nothing_comes_twice(
    broker: Kafka, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 5000
    pipeline = document(key_partitioned=False, source={"topic": topic_name})
    pipeline |= {"name": topic_name, "kafka": {"bootstrap": broker.bootstrap}}
    made = parse_pipeline(pipeline)
    kafka, target = made.kafka, Topics(topic_name).keyed("payments")
    make_topic(kafka, topic_name, partitions=3)
    ensure_topics(kafka, {target: pipeline_topics(made)[target]})
    values = payments(count, seed=1)
    fill(
        kafka,
        topic_name,
        [
            Output(topic_name, b"host-%d" % (i % 7), b"{" if i % 29 == 7 else value, START_MS + i)
            for i, value in enumerate(values)
        ],
    )

    class Crashing(RekeyHandler):
        left = 6

        def process(self, fetches: list[Fetch]) -> Batch:
            if not self.left:
                msg = "crashed"
                raise RuntimeError(msg)
            self.left -= 1
            return super().process(fetches)

    async def later(*_: object) -> Committed:
        return Committed.LATER

    with monkeypatch.context() as patch:
        patch.setattr(ConsumerThread, "commit_offsets", later)
        patch.setattr("connectors.kafka.fetched.FETCH_RECORDS", 200)
        handler = Crashing(made, "payments", lambda: running.worker.exhausted())
        with Running(kafka, topic_name, [topic_name], handler, batch=500) as running:
            assert eventually(lambda: not running.alive)
    assert "crashed" in str(running.error)
    assert 0 < sum(end_offsets(kafka, target).values()) < count
    follower = RekeyHandler(made, "payments", lambda: running.worker.exhausted())
    with Running(kafka, topic_name, [topic_name], follower, tick_seconds=0.05) as running:
        assert eventually(lambda: committed(kafka, topic_name) == end_offsets(kafka, topic_name))
    assert running.error is None
    total, places = 0, []
    seen: dict[Partition, Repeats] = {}
    for fetch in read(kafka, target):
        total += len(fetch)
        part = seen.setdefault(fetch.partition, Repeats(topic_name)).drop(fetch)
        mine = [(origin.partition, origin.offset) for origin in part.sources()]
        # sorting by partition alone keeps each one's order, which is that of the offsets
        assert sorted(mine) == sorted(mine, key=lambda place: place[0])
        places += mine
    assert total > count
    assert len(places) == len(set(places)) == count
