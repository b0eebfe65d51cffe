"""The stream of a run: good records, oddities that make incidents, and everything that is bad."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.chaos.schedule import PARTITIONS, Schedule
from tests.pipelines import START_MS
from tests.test_bad_lines import UNUSABLE, USABLE

CARDS = 40
STEP_MS = 1000
HISTORY = 8_000
LARGE = 20_000
BURST = 400

BAD: list[bytes | None] = [
    *(value for value, _ in UNUSABLE.values()),
    b'{"card": "' + b"x" * 2 * LARGE + b'"}',
    None,  # a tombstone is no record: filtered
]


class Sent(NamedTuple):
    """A record as it is sent; its place is chosen here, not by a client."""

    partition: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


class _Maker:
    """Makes good records; of each card the amounts are odd for a while now and then."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._odd: dict[int, int] = {}

    def __call__(self, at_ms: int, number: str, shift: float = 0.0) -> Sent:
        rng = self._rng
        card = rng.randrange(CARDS)
        if rng.random() < 0.001:
            self._odd[card] = rng.randrange(3, 12)
        amount = rng.gauss(50.0 + shift, 5.0)
        country = "AT" if rng.random() < 0.9 else "DE"
        if self._odd.get(card, 0):
            self._odd[card] -= 1
            amount, country = amount + rng.uniform(60, 400), "XX"
        if rng.random() < 0.01:
            at_ms -= rng.randrange(300, 3600) * 1000  # out of order, and late for spans of time
        name = f"card-{card}"
        fields: dict[str, Any] = {"card": name, "ts": at_ms, "amount": amount, "country": country}
        value = json.dumps(fields | {"number": number}).encode()
        return Sent(card % PARTITIONS, name.encode(), value, at_ms)


def history(seed: int) -> list[bytes]:
    """Records to fit a model on: the same stream before it begins, without oddities."""
    rng = random.Random(f"history {seed}")
    maker = _Maker(rng)
    first = START_MS - HISTORY * STEP_MS - 7_200_000
    made = [maker(first + i * STEP_MS, f"h{i}") for i in range(HISTORY)]
    return [x.value for x in made if x.value is not None and b'"XX"' not in x.value]


def stream(schedule: Schedule) -> Iterator[Sent]:
    """Yield the records of a run in the order of sending."""
    rng = random.Random(f"stream {schedule.seed}")
    maker = _Maker(rng)
    recent: list[Sent] = []
    poison = {round(f.at * schedule.records) for f in schedule.faults if f.kind == "poison"}
    bad_until = -1
    for i in range(schedule.records):
        at_ms = START_MS + i * STEP_MS
        if i in poison:
            bad_until = i + BURST
        chance = rng.random()
        if chance < 0.02 and recent:
            yield rng.choice(recent)  # sent twice: the same id
        elif chance < 0.045 or (i < bad_until and chance < 0.8):
            yield _bad(rng, at_ms)
        elif chance < 0.05:
            yield _unusual(rng, at_ms, i)
        else:
            drifted = schedule.drift and i > 0.6 * schedule.records
            made = maker(at_ms, f"n{i}", 12.0 if drifted else 0.0)
            recent = [*recent[-49:], made]
            yield made


def _bad(rng: random.Random, at_ms: int) -> Sent:
    value = rng.choice(BAD)
    key = b"card-0" if value is None else None  # a client sends no message without either
    return Sent(rng.randrange(PARTITIONS), key, value, at_ms)


def _unusual(rng: random.Random, at_ms: int, number: int) -> Sent:
    """Make a record that is windowed for all its oddity."""
    card = rng.randrange(CARDS)
    fields: dict[str, Any] = {"card": f"card-{card}", "ts": at_ms, "amount": 50.0, "country": "AT"}
    fields |= {"number": f"u{number}"} | rng.choice(USABLE)
    return Sent(card % PARTITIONS, f"card-{card}".encode(), json.dumps(fields).encode(), at_ms)
