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
ODD, BAD, TWICE = 0.0005, 0.001, 0.002
COUNTRIES = ("AT", "DE", "CH", "IT")
MERCHANTS = 50
UNUSABLE = (b"{bad", b"[]", b'{"card": "card-1", "ts": "yesterday"}', b'{"ts": 1}')


def records(seed: int, count: int, keys: int, topic: str) -> Iterator[list[Output]]:
    """Yield the records in portions: six fields each, a few odd, bad or sent twice."""
    for portion, first in enumerate(range(0, count, PORTION)):
        size = min(PORTION, count - first)
        yield _portion(np.random.default_rng([seed, portion]), first, size, keys, topic)


def _portion(
    rng: np.random.Generator, first: int, size: int, keys: int, topic: str
) -> list[Output]:
    chance = rng.random(size)
    odd = chance < ODD
    amounts = rng.normal(50.0, 5.0, size) + odd * rng.uniform(60, 400, size)
    places = np.minimum(rng.geometric(0.6, size) - 1, len(COUNTRIES) - 1)
    columns = zip(
        rng.integers(0, keys, size).tolist(),
        amounts.tolist(),
        places.tolist(),
        rng.integers(0, MERCHANTS, size).tolist(),
        (chance > 1 - TWICE).tolist(),
        ((chance > 0.5) & (chance < 0.5 + BAD)).tolist(),
        strict=True,
    )
    made: list[Output] = []
    for i, (card, amount, place, merchant, twice, bad) in enumerate(columns, start=first):
        at = START_MS + i * STEP_MS
        if twice and made:
            made.append(made[-1])  # the same id again
            continue
        text = (
            f'{{"number":"n{i}","card":"card-{card}","ts":{at},"amount":{amount:.2f},'
            f'"country":"{COUNTRIES[place]}","merchant":"m{merchant}"}}'
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
