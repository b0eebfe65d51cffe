"""Explanations speak of records: in their units, and of what the detector expected."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.encode import from_log, to_log
from agents.explain import REDACTED, UNSEEN, sentence
from agents.window import logarithms
from connectors.base import flatten
from schemas import messages
from schemas.messages import Contribution, RetrainRequest, ScoredEvent
from tests.pipelines import START_MS, config, fetch, fitted, payments

RETRAIN = "eddy.retrain"
LOGS = {"fields": {"amount": {"type": "number", "transform": "log1p"}}, "derive": ["gap"]}


@given(st.floats(-1e30, 1e30))
def test_a_logarithm_in_float32_tells_six_digits(value: float) -> None:
    [log] = to_log(np.array([value])).astype(np.float32)
    # a float32 holds a logarithm to its 24th bit, which is that much of the number
    slack = 2**-23 * max(1.0, abs(float(log)))
    assert from_log(float(log)) == pytest.approx(value, rel=slack + 1e-5, abs=1e-7)


def test_an_expectation_beyond_all_numbers_stays_finite() -> None:
    assert math.isfinite(from_log(1e6))
    assert from_log(-1e6) == -from_log(1e6)


def test_what_is_a_logarithm_follows_from_the_stream() -> None:
    assert logarithms(config(**LOGS).streams["payments"]) == {"amount", "gap"}
    assert logarithms(config().streams["payments"]) == set()
    tumbling = {"window": {"kind": "tumbling", "length": "10s"}}
    assert logarithms(config(**tumbling).streams["payments"]) == {"records_log"}
    found = logarithms(config(**LOGS, **tumbling).streams["payments"])
    assert found > {"records_log", "amount_mean", "amount_min", "amount_max", "gap_max"}
    assert "amount_std" not in found


def contributions(index: int, **change: float) -> list[Contribution]:
    """Why the window is odd that ends with a changed record."""
    values: list[bytes | None] = list(payments(600, seed=6))
    record = msgspec.json.decode(values[index] or b"") | change
    values[index] = msgspec.json.encode(record)
    outputs = flatten(fitted(config(**LOGS)).process([fetch(values)]).outputs)
    events = [messages.decode(o.value, ScoredEvent) for o in outputs if o.topic.endswith("scored")]
    [event] = [e for e in events if e.is_anomaly and e.last_offset == index]
    return event.contributions


def test_logarithms_are_told_as_the_amounts_that_they_were() -> None:
    top = contributions(500, amount=0.79)[0]
    assert (top.field, top.step, top.observed) == ("amount", 3, 0.79)
    assert top.expected == pytest.approx(50, rel=0.5)


def test_a_gap_is_told_in_seconds() -> None:
    late = START_MS + 1000 * 599 + 7_000_000
    top = contributions(599, ts=late)[0]
    assert (top.field, top.step) == ("gap", 3)
    assert top.observed == pytest.approx(7000, rel=0.01)  # since the card's record before


def test_a_drift_is_told_in_the_units_of_the_records() -> None:
    rows = [msgspec.json.decode(value) for value in payments(9000, seed=6)]
    later = [row | {"amount": 1.2 * row["amount"]} for row in rows[3000:]]
    values: list[bytes | None] = [msgspec.json.encode(row) for row in rows[:3000] + later]
    outputs = flatten(fitted(config(**LOGS)).process([fetch(values)]).outputs)
    wishes = [messages.decode(o.value, RetrainRequest) for o in outputs if o.topic == RETRAIN]
    [wish] = [w for w in wishes if w.reason == "drift"]
    words = wish.detail.split()
    assert words[:3] == ["amount", "moved", "from"]
    assert float(words[3]) == pytest.approx(50, rel=0.05)
    assert float(words[5]) == pytest.approx(60, rel=0.05)


@pytest.mark.parametrize(
    ("observed", "expected", "text"),
    [
        ("GET /admin", None, "unusual path 'GET /admin'"),
        (UNSEEN, None, "unusual path (not seen at fit)"),
        (REDACTED, None, "unusual path (redacted)"),
        (1413.0, 111.409, "unusual path (observed 1413, expected 111.409)"),
        (1413.0, None, "unusual path (observed 1413)"),
        (None, None, "unusual path"),
    ],
)
def test_the_main_contribution_in_words(
    observed: float | str | None, expected: float | None, text: str
) -> None:
    other = Contribution(field="bytes", step=0, share=0.4, observed=3.0)
    main = [
        Contribution(field="path", step=step, share=0.3, observed=observed, expected=expected)
        for step in (1, 2)
    ]
    assert sentence([other, *main]) == text


def test_without_a_contribution_it_is_the_window() -> None:
    assert sentence([]) == "an unusual window"
