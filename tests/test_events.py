"""Labelled events and how soon they are noticed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.events import Events, delay_metrics

SECOND = 10**9


def marks(text: str) -> NDArray[np.bool_]:
    return np.array([letter == "1" for letter in text])


def keys(text: str) -> NDArray[np.int64]:
    return np.array([ord(letter) for letter in text])


def test_events_are_runs_within_a_key() -> None:
    events = Events.of(marks("1101110011"), keys("aaaaabbbcc"))
    assert events.first.tolist() == [0, 3, 5, 8]
    assert events.last.tolist() == [1, 4, 5, 9]
    assert events.length.tolist() == [2, 2, 1, 2]


def test_delay_is_from_the_first_labelled_to_the_first_flagged_window() -> None:
    labels, flagged = marks("0111100111011"), marks("1001110001000")
    series = keys("aaaaaaaaaaabb")
    end = np.array([0, 1, 2, 4, 8, 9, 10, 20, 30, 50, 51, 5, 6]) * SECOND
    assert delay_metrics(labels, flagged, series, end) == {
        "events": 3,
        "event_recall": pytest.approx(2 / 3),
        "delay_windows": 2,
        "delay_windows_median": 2,
        "delay_seconds": pytest.approx((3 + 30) / 2),
        "delay_seconds_median": pytest.approx((3 + 30) / 2),
    }


def test_mean_and_median_delay_differ_where_one_event_is_noticed_late() -> None:
    labels, flagged = marks("11111" * 3), marks("10000" + "10000" + "00010")
    end = np.arange(15) * 60 * SECOND
    found = delay_metrics(labels, flagged, keys("aaaaabbbbbccccc"), end)
    assert (found["delay_windows"], found["delay_windows_median"]) == (1, 0)
    assert (found["delay_seconds"], found["delay_seconds_median"]) == (60, 0)


def test_an_alarm_before_after_or_on_another_key_notices_nothing() -> None:
    labels, flagged = marks("0110" + "0000"), marks("1001" + "0110")
    found = delay_metrics(labels, flagged, keys("aaaabbbb"), np.arange(8) * SECOND)
    assert found == {"events": 1, "event_recall": 0}
