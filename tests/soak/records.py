"""The records of a soak: a function of the plan, made portion by portion."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np

from connectors.base import Output
from connectors.kafka.publisher import Publisher
from schemas.config import Kafka
from tests.pipelines import START_MS

PORTION = 20_000
STEP_MS = 10
ODD, BAD, TWICE = 0.0005, 0.002, 0.002
BAD_PORTION = 10  # one portion of so many holds bad records: among them all decode more slowly
COUNTRIES = ("AT", "DE", "CH", "IT")
UNUSABLE = (b"{bad", b"[]", b'{"card": "card-1", "ts": "yesterday"}', b'{"ts": 1}')


def records(
    seed: int, count: int, keys: int, topic: str, odd: float = ODD
) -> Iterator[list[Output]]:
    """Yield the records in portions: six fields each, a few odd, bad or sent twice."""
    for portion, first in enumerate(range(0, count, PORTION)):
        rng = np.random.default_rng([seed, portion])
        bad = 0.0 if portion % BAD_PORTION else BAD
        yield _portion(rng, first, min(PORTION, count - first), keys, topic, odd, bad)


def _portion(
    rng: np.random.Generator,
    first: int,
    size: int,
    keys: int,
    topic: str,
    odd_share: float,
    bad_share: float,
) -> list[Output]:
    chance = rng.random(size)
    odd = chance < odd_share
    amounts = rng.normal(50.0, 5.0, size) + odd * rng.uniform(60, 400, size)
    places = np.minimum(rng.geometric(0.6, size) - 1, len(COUNTRIES) - 1)
    columns = zip(
        rng.integers(0, keys, size).tolist(),
        amounts.tolist(),
        places.tolist(),
        rng.normal(1_000.0, 200.0, size).tolist(),
        (chance > 1 - TWICE).tolist(),
        ((chance > 0.5) & (chance < 0.5 + bad_share)).tolist(),
        strict=True,
    )
    made: list[Output] = []
    for i, (card, amount, place, balance, twice, bad) in enumerate(columns, start=first):
        at = START_MS + i * STEP_MS
        if twice and made:
            made.append(made[-1])  # the same id again
            continue
        text = (
            f'{{"number":"n{i}","card":"card-{card}","ts":{at},"amount":{amount:.2f},'
            f'"country":"{COUNTRIES[place]}","balance":{balance:.2f}}}'
        )
        value = UNUSABLE[i % len(UNUSABLE)] if bad else text.encode()
        made.append(Output(topic, b"card-%d" % card, value, at))
    return made


def fill(bootstrap: str, seed: int, count: int, keys: int, topic: str) -> None:
    """Publish the records of a plan."""
    asyncio.run(_fill(Kafka(bootstrap=bootstrap), records(seed, count, keys, topic)))


async def _fill(kafka: Kafka, portions: Iterator[list[Output]]) -> None:
    publisher = Publisher(kafka)
    try:
        for portion in portions:
            await publisher.publish(portion)
    finally:
        await publisher.stop()
