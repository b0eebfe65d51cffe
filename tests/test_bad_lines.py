"""A file with bad lines in it gives the events of the clean file, and an account of the rest."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from connectors.partitioner import partitions_of
from schemas import messages
from schemas.messages import DeadLetter, ScoredEvent
from tests.pipelines import START_MS, document
from tests.test_cli import eddy

GOOD = 24_000
EVERY = 8  # a bad line behind so many good ones: one in nine
PARTITIONS = 4
HUGE = 20_000_000
HUGE_LINES = 3

# Lines that cannot be used, and the reason that their dead letters give.
UNUSABLE: dict[str, tuple[bytes, str]] = {
    "wrong type": (b'{"card": "c", "ts": 1700000000000, "amount": "much"}', "wrong_type"),
    "list": (b"[1, 2]", "wrong_type"),
    "truncated": (b'{"card": "c", "ts": 17000', "not_json"),
    "empty": (b"", "empty"),
    "not UTF-8": (b'{"card": "\xff\xfe", "ts": 1700000000000}', "not_utf8"),
    "no key": (b'{"ts": 1700000000000, "amount": 1.0}', "missing_key"),
    "null key": (b'{"card": null, "ts": 1700000000000, "amount": 1.0}', "missing_key"),
    "no time": (b'{"card": "c", "amount": 1.0}', "missing_time"),
    "time is text": (b'{"card": "c", "ts": "noon", "amount": 1.0}', "bad_time"),
    "fifty years ahead": (b'{"card": "c", "ts": 3300000000000, "amount": 1.0}', "future_time"),
    "too deep": (b'{"extra": ' + b"[" * 5000 + b"]" * 5000 + b', "card": "c"}', "not_json"),
}
# Lines that are windowed all the same; they have a partition of their own.
USABLE = (
    {"amount": None},
    {"amount": float("nan")},
    {"amount": float("inf")},
    {"country": "XX"},
    {"country": None},
    {"ts": 600_000_000_000},  # 1989
    {"amount": 1e300},
    {"unknown": {"nested": [1]}},
)


def keys_of(wanted: set[int], count: int) -> list[str]:
    """Keys that the partitioner puts into some partitions."""
    names = [f"card-{i}" for i in range(20 * count)]
    places = partitions_of([name.encode() for name in names], PARTITIONS).tolist()
    return [name for name, place in zip(names, places, strict=True) if place in wanted][:count]


def good_lines(count: int, seed: int) -> list[bytes]:
    rng = np.random.default_rng(seed)
    cards = keys_of({0, 1, 2}, 40)
    rows = zip(rng.integers(len(cards), size=count), rng.normal(50, 5, count), strict=True)
    return [
        json.dumps(
            {"card": cards[c], "ts": START_MS + 1000 * i, "amount": a, "country": "AT"}
        ).encode()
        for i, (c, a) in enumerate(rows)
    ]


def with_bad_lines(good: list[bytes]) -> tuple[list[bytes], Counter[str], int]:
    """Insert bad lines; return also the reasons of dead letters and how many are windowed."""
    cards = keys_of({3}, len(USABLE))
    lines: list[bytes] = []
    reasons: Counter[str] = Counter()
    windowed = 0
    unusable = list(UNUSABLE.values())
    for i, line in enumerate(good):
        lines.append(line)
        turn, rest = divmod(i, EVERY)
        if rest:
            continue
        kind = turn % (len(unusable) + len(USABLE))
        if kind < len(unusable):
            bad, reason = unusable[kind]
            reasons[reason] += 1
        else:
            which = kind - len(unusable)
            fields: dict[str, Any] = {"card": cards[which], "ts": START_MS + 1000 * i}
            bad = json.dumps(fields | {"amount": 50.0, "country": "AT"} | USABLE[which]).encode()
            windowed += 1
        lines.append(bad)
    for i in range(HUGE_LINES):
        lines.insert((i + 1) * len(lines) // (HUGE_LINES + 1), b'{"card": "' + b"x" * HUGE + b'"}')
        reasons["too_large"] += 1
    return lines, reasons, windowed


def replayed(pipeline: Path, lines: list[bytes], folder: Path) -> tuple[Any, list[ScoredEvent]]:
    folder.mkdir()
    (folder / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    done = eddy(
        *("replay", pipeline, "-i", folder / "in.jsonl", "--partitions", PARTITIONS, "--json"),
        *("--output", folder / "scored.jsonl", "--dead-letters", folder / "dead.jsonl"),
    )
    assert done.returncode == 0, done.stderr
    scored = (folder / "scored.jsonl").read_bytes().splitlines()
    return json.loads(done.stdout), [messages.decode(line, ScoredEvent) for line in scored]


@pytest.mark.parametrize("window", ["sliding", "tumbling"])
def test_bad_lines_change_no_event_of_the_good_ones(tmp_path: Path, window: str) -> None:
    size: dict[str, Any] = {"size": 4} if window == "sliding" else {"length": "5m"}
    made = document(window={"kind": window, **size}) | {"storage": str(tmp_path / "storage")}
    pipeline, history = tmp_path / "pipeline.json", tmp_path / "history.jsonl"
    pipeline.write_bytes(msgspec.json.encode(made))
    history.write_bytes(b"\n".join(good_lines(8000, seed=1)))
    assert eddy("fit", pipeline, "-i", history).returncode == 0
    good = good_lines(GOOD, seed=2)
    lines, reasons, windowed = with_bad_lines(good)

    _, expected = replayed(pipeline, good, tmp_path / "clean")
    report, found = replayed(pipeline, lines, tmp_path / "dirty")

    assert report["records_in"] == len(lines)
    late = report["late"]  # a line of 1989 is late where windows follow event time
    assert report["windowed"] + late == len(good) + windowed
    assert (late > 0) == (window == "tumbling")
    assert report["dead_letters"] == sum(reasons.values())
    letters = [
        messages.decode(line, DeadLetter)
        for line in (tmp_path / "dirty" / "dead.jsonl").read_bytes().splitlines()
    ]
    assert Counter(letter.reason for letter in letters) == reasons
    assert all(letter.detail for letter in letters)

    assert len(expected) > (GOOD / 2 if window == "sliding" else 1000)
    theirs, ours = of_good_lines(expected), of_good_lines(found)
    assert [identity(e) for e in ours] == [identity(e) for e in theirs]
    for a, b in zip(ours, theirs, strict=True):
        # a batch of another size may round its last digit otherwise, and a rank with it
        assert a.score == pytest.approx(b.score, rel=1e-5, abs=1e-6)
        assert a.p_value == pytest.approx(b.p_value, rel=1e-3, abs=1e-3)


def of_good_lines(events: list[ScoredEvent]) -> list[ScoredEvent]:
    """Events of the partitions without windowed bad lines, partition by partition."""
    return sorted((e for e in events if e.partition != 3), key=lambda e: e.partition)


def identity(event: ScoredEvent) -> tuple[Any, ...]:
    return (event.key, event.window_start, event.window_end, event.records, event.is_anomaly)
