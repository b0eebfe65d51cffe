"""Incidents: one for what belongs together, and never more than the budget allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import incident
from agents.explain import Why
from agents.incident import IncidentBook, Placed
from schemas.messages import Contribution

SECOND = 10**9
DAY = 86_400 * SECOND


def why(cause: str) -> Why:
    return Why([Contribution(field="amount", step=0, share=1.0)], {cause: 1.0})


def add(
    book: IncidentBook,
    key: str,
    time: int,
    cause: str = "",
    *,
    score: float = 1.0,
    p_value: float = 1e-12,
) -> Placed:
    reason = why(cause or f"cause of {key}")
    return book.add(f"{key}@{time}", key, time, time, score, p_value, 1e-3, reason)


@given(
    times=st.lists(st.integers(0, 5 * DAY), min_size=1, max_size=300),
    per_day=st.sampled_from([0.5, 1.0, 6.7, 20.0]),
)
def test_the_budget_holds_in_every_stretch_of_time(times: list[int], per_day: float) -> None:
    book = IncidentBook("s", "r", per_day=per_day, gap=0)
    opened = [
        time
        for number, time in enumerate(sorted(times))
        if add(book, f"key-{number}", time).incident_id is not None
    ]
    allowed, span = max(1, int(per_day)), int(max(1, int(per_day)) / per_day * DAY)
    for index, time in enumerate(opened):
        assert sum(time <= other < time + span for other in opened[index:]) <= allowed
    assert book.opened == len(opened)
    assert book.opened + book.suppressed == len(times)


def test_the_last_openings_are_kept_for_the_rarest() -> None:
    book = IncidentBook("s", "r", per_day=10.0, gap=0)
    for number in range(20):
        add(book, f"key-{number}", number, p_value=9e-4)  # of a threshold of 1e-3
    assert 0 < book.opened < 5
    assert add(book, "worst", 21, p_value=1e-9).incident_id is not None


def test_windows_of_one_key_make_one_incident() -> None:
    book = IncidentBook("s", "r", per_day=5.0, gap=60 * SECOND)
    placed = [add(book, "k", i * SECOND) for i in range(8)]
    assert len({place.incident_id for place in placed}) == 1
    told = [message for place in placed for message in place.messages]
    assert [message.state for message in told] == ["open", "updated", "updated", "updated"]
    [last] = book.finish()
    assert last.state == "closed"
    assert [message.revision for message in [*told, last]] == [0, 1, 2, 3, 4]


def test_after_the_gap_a_key_opens_another_incident() -> None:
    book = IncidentBook("s", "r", per_day=5.0, gap=60 * SECOND)
    first = add(book, "k", 0)
    again = add(book, "k", 61 * SECOND)
    assert first.incident_id != again.incident_id
    assert [message.state for message in again.messages] == ["closed", "open"]


def test_many_keys_with_one_cause_make_one_incident() -> None:
    book = IncidentBook("s", "r", per_day=8.0, gap=DAY)
    placed = [add(book, f"key-{i}", i * SECOND, "amount>") for i in range(200)]
    assert book.opened <= 6
    assert book.suppressed == 0
    assert not placed[0].surge
    assert all(place.surge for place in placed[5:])
    [surge] = [m for m in book.finish() if m.key_count > 1]
    assert surge.key_count == 200 - book.opened + 1
    assert len(surge.keys) == 100
    assert "keys at once" in surge.summary


def test_a_surge_hides_neither_other_causes_nor_far_higher_scores() -> None:
    book = IncidentBook("s", "r", per_day=8.0, gap=DAY)
    for i in range(50):
        add(book, f"key-{i}", i * SECOND, "amount>", score=1.0 + i % 5 / 10)
    other = add(book, "other", 51 * SECOND, "amount<")
    far = add(book, "far", 52 * SECOND, "amount>", score=10.0)
    near = add(book, "near", 53 * SECOND, "amount>", score=1.5)
    assert (other.surge, far.surge, near.surge) == (False, False, True)
    assert len({other.incident_id, far.incident_id, near.incident_id}) == 3


def test_a_few_keys_over_a_long_time_are_no_surge() -> None:
    book = IncidentBook("s", "r", per_day=8.0, gap=DAY)
    placed = [add(book, f"key-{i}", i * DAY // 8, "amount>") for i in range(40)]
    assert not any(place.surge for place in placed)


def test_the_keys_of_a_surge_are_counted_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incident, "KEYS_COUNTED", 50)
    book = IncidentBook("s", "r", per_day=8.0, gap=DAY)
    for i in range(200):
        add(book, f"key-{i}", i * SECOND, "amount>")
    [surge] = [m for m in book.finish() if m.key_count > 1]
    assert surge.key_count == 50
    assert surge.events == 200 - book.opened + 1
