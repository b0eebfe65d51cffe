"""Incidents and revised windows: each window goes to an incident once at most."""

from __future__ import annotations

from schemas import messages
from schemas.messages import Incident
from tests.revising import events, pipeline, records, run


def test_what_a_revision_finds_goes_to_an_incident_once() -> None:
    values, _ = records(200, 5)
    clock = values[-1]["ts"] // 10_000 * 10_000 + 100_000
    key = {**values[0], "card": "card-9"}
    late = [
        {**key, "ts": clock + 1000, "amount": 50.0},
        {**key, "ts": clock + 11_000, "amount": 50.0, "card": "card-8"},
        {**key, "ts": clock + 2000, "amount": 5000.0},  # makes an anomaly of it
        {**key, "ts": clock + 3000, "amount": 5000.0},
    ]
    made = pipeline("tumbling", alerts={"budget_per_day": 50})
    outputs = run(made, [*values, *late], [])
    mine = [e for e in events(outputs) if e.key == "card-9"]
    assert [(e.revision, e.is_anomaly) for e in mine] == [(0, False), (1, True), (2, True)]
    assert len({e.event_id for e in mine}) == 1
    assert mine[1].incident_id is not None
    assert mine[1].incident_id == mine[2].incident_id
    assert mine[2].contributions
    alerts = [messages.decode(o.value, Incident) for o in outputs if o.topic == "payments.alerts"]
    closed = [i for i in alerts if i.incident_id == mine[1].incident_id and i.state == "closed"]
    assert [(i.events, i.key_count) for i in closed] == [(1, 1)]


def test_what_a_revision_takes_back_is_published_and_leaves_the_incident_alone() -> None:
    values, _ = records(200, 5)
    clock = values[-1]["ts"] // 10_000 * 10_000 + 100_000
    key = {**values[0], "card": "card-9"}
    late = [
        {**key, "ts": clock + 1000, "amount": 400.0},
        {**key, "ts": clock + 11_000, "amount": 50.0, "card": "card-8"},
        *({**key, "ts": clock + 2000 + i, "amount": 50.0} for i in range(300)),
    ]
    made = pipeline("session", emit="anomalies", alerts={"budget_per_day": 50})
    outputs = run(made, [*values, *late], [])
    mine = [e for e in events(outputs) if e.key == "card-9"]
    assert mine[0].is_anomaly
    assert [e.revision for e in mine] == list(range(301))
    alerts = [messages.decode(o.value, Incident) for o in outputs if o.topic == "payments.alerts"]
    closed = [i for i in alerts if i.incident_id == mine[0].incident_id and i.state == "closed"]
    assert [i.events for i in closed] == [1]


def test_a_merged_session_is_known_for_the_anomaly_that_it_swallows() -> None:
    values, _ = records(200, 5)
    clock = values[-1]["ts"] + 100_000
    key = {**values[0], "card": "card-9"}
    late = [
        {**key, "ts": clock + 1000, "amount": 5000.0},
        {**key, "ts": clock + 6000, "amount": 50.0, "card": "card-8"},
        {**key, "ts": clock + 500, "amount": 5000.0},
    ]
    made = pipeline("session", emit="anomalies", alerts={"budget_per_day": 50})
    mine = [e for e in events(run(made, [*values, *late], [])) if e.key == "card-9"]
    told = [(e.revision, e.retracted, e.is_anomaly, e.window_start // 10**6 - clock) for e in mine]
    assert told == [
        (0, False, True, 1000),
        (1, True, False, 1000),
        (0, False, True, 500),
    ]
    assert mine[0].incident_id == mine[2].incident_id is not None
    assert made.totals()["payments"].incidents == 1
