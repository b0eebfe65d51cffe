"""A backlog pages nobody, a page that is due comes, and nothing else depends on the clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.pipeline import Pipeline
from agents.snapshot import pack, unpack
from connectors.base import Output, Partition, flatten
from detectors.model import Model
from schemas import messages
from schemas.config import Pipeline as Config
from schemas.errors import ConfigError
from schemas.messages import Incident, ScoredEvent
from tests.pipelines import START_MS, config, fetch, fitted, payments

HOUR = 3600 * 10**9
PLACE = Partition("payments", 0)
ALERTS = {"budget_per_day": 50, "incident_gap": "2m"}


def made(**alerts: Any) -> Config:
    return config(alerts={**ALERTS, **alerts}, drift={"enabled": False})


AGED = made(max_age="1h")
MODELS: list[Model] = []


def model() -> Model:
    if not MODELS:
        speaking = fitted(made()).speaking("payments", "pca")
        assert speaking is not None
        MODELS.append(speaking)
    return MODELS[0]


def records(n: int = 400) -> list[bytes]:
    """Payments of which those of some minutes are out of the ordinary."""
    values = []
    for i, value in enumerate(payments(n, seed=3, cards=3)):
        record = msgspec.json.decode(value)
        if i % 200 > 150 and i % 3:
            record["amount"] = 5000.0 + i
        values.append(msgspec.json.encode(record))
    return values


RECORDS = records()


class Worker:
    """Processes the records at times that a test chooses, and may crash in between."""

    def __init__(self, settings: Config) -> None:
        self.now = 0
        self._settings = settings
        self.pipeline = self._fresh()
        self.outputs: list[Output] = []
        # the incidents of windows by how old the windows were
        self.aged: dict[bool, set[str | None]] = {True: set(), False: set()}

    def _fresh(self) -> Pipeline:
        pipeline = Pipeline(self._settings, lambda: self.now)
        pipeline.apply("payments", "pca", model())
        return pipeline

    def process(self, first: int, end: int, *, old: bool) -> None:
        self.now = (START_MS + 1000 * end) * 10**6 + (2 * HOUR if old else 0)
        part = flatten(self.pipeline.process([fetch(list(RECORDS[first:end]), 0, first)]).outputs)
        self.outputs += part
        events = [messages.decode(x.value, ScoredEvent) for x in part if x.topic.endswith("scored")]
        self.aged[old] |= {event.incident_id for event in events} - {None}

    def crash(self) -> None:
        state = unpack(b"".join(pack(self.pipeline.snapshot(PLACE))))
        self.pipeline = self._fresh()
        self.pipeline.restore(PLACE, state, {"pca": model()})

    def incidents(self) -> list[Incident]:
        topic = "payments.alerts"
        return [messages.decode(x.value, Incident) for x in self.outputs if x.topic == topic]


def plain(incident: Incident) -> Incident:
    """An incident without what the clock decides, nor rounding that depends on the batch."""
    p_value = float(f"{incident.min_p_value:.3g}")
    return msgspec.structs.replace(
        incident, stale=False, min_p_value=p_value, top=[], summary=incident.summary[:20]
    )


def without_repetitions(incidents: Sequence[Incident]) -> dict[str, list[Incident]]:
    """What is told of each incident, once, whether it was stale or not."""
    told: dict[str, list[Incident]] = {}
    for incident in map(plain, incidents):
        known = told.setdefault(incident.incident_id, [])
        if incident not in known:
            known.append(incident)
    return told


def reference() -> list[Incident]:
    worker = Worker(made())
    worker.process(0, len(RECORDS), old=True)
    return worker.incidents()


pieces = st.lists(
    st.tuples(st.integers(1, len(RECORDS) - 1), st.booleans(), st.booleans()),
    max_size=8,
    unique_by=lambda piece: piece[0],
)


@settings(max_examples=60)
@given(pieces, st.booleans())
def test_only_staleness_follows_from_the_clock(
    cuts: list[tuple[int, bool, bool]], last_old: bool
) -> None:
    worker, at = Worker(AGED), 0
    for end, old, crash in sorted(cuts):
        worker.process(at, end, old=old)
        at = end
        if crash:
            worker.crash()
    worker.process(at, len(RECORDS), old=last_old)
    seen, wanted = worker.incidents(), reference()
    assert without_repetitions(seen) == without_repetitions(wanted)
    last = {x.incident_id: plain(x) for x in seen}
    assert last == {x.incident_id: plain(x) for x in wanted}
    paged = {x.incident_id for x in seen if x.state != "closed" and not x.stale}
    assert paged == worker.aged[False], "who has a window that is no old news is paged, once"
    assert not any(x.stale for x in seen if x.state == "closed")


def test_an_incident_is_told_again_word_for_word_when_it_is_news() -> None:
    worker = Worker(AGED)
    worker.process(0, 163, old=True)
    before = worker.incidents()
    assert before
    assert all(incident.stale for incident in before)
    last = {incident.incident_id: incident for incident in before}
    for at in range(163, 200):
        worker.process(at, at + 1, old=False)
    after = worker.incidents()[len(before) :]
    assert not any(incident.stale for incident in after)
    goes_on = last.keys() & worker.aged[False]
    told = {name: [x for x in after if x.incident_id == name] for name in goes_on}
    again = [name for name in goes_on if told[name][0].events == last[name].events]
    assert again  # of the others the window that was news happened to make an update due
    for name in again:
        assert told[name][0] == msgspec.structs.replace(last[name], stale=False)
        assert told[name].count(told[name][0]) == 1


def test_without_an_age_nothing_is_stale() -> None:
    assert reference()
    assert not any(incident.stale for incident in reference())


def test_history_is_never_stale() -> None:
    pipeline = Pipeline(AGED, lambda: 2**62, now=2**62)
    pipeline.apply("payments", "pca", model())
    outputs = flatten(pipeline.process([fetch(list(RECORDS))]).outputs)
    incidents = [
        messages.decode(x.value, Incident) for x in outputs if x.topic == "payments.alerts"
    ]
    assert incidents
    assert not any(incident.stale for incident in incidents)


@pytest.mark.parametrize(("age", "why"), [("0s", "every incident would be stale"), (5, "duration")])
def test_an_age_that_makes_no_sense_is_refused(age: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=f"alerts.max_age: .*{why}"):
        made(max_age=age)
