"""Card payments: JSON messages keyed by card.

A card has its usual amounts, five to ten favourite merchants, a home country and one that it
travels to, channels, and hours of the day. Episodes: an amount 20 to 50 times the card's habit;
ordinary amounts at an hour, in a country and with merchants that are not the card's; a burst of
small payments that tries out a stolen card. The drift doubles amounts and moves payments online.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from connectors.synthetic.base import Kind
from connectors.synthetic.records import Columns, RecordGenerator, pick
from connectors.synthetic.rhythm import HOURS, MILLISECOND_NS, MINUTE_NS, SECOND_NS, bump

__all__ = ["Transactions"]

COUNTRIES = ("AT", "BR", "CA", "CH", "DE", "ES", "FR", "GB", "IT", "JP", "NL", "PL", "SE", "US")
CHANNELS = ("chip", "contactless", "online", "atm")
ONLINE = CHANNELS.index("online")
MERCHANTS = 200
FAVOURITES = 10

# Exceptions to the habits are rarer than in life: otherwise most alerts would be about them.
HOME_SHARE = 0.9995
FAVOURITE_SHARE = 0.99

DRIFT_FACTOR = 2.0
DRIFT_ONLINE = 0.3

LINE = (
    b'{"tx_id":"tx-%d-%09d","card_id":"card-%05d","ts":%d,"amount":%.2f,'
    b'"merchant":"merchant-%03d","country":"%s","channel":"%s","distance_km":%s}'
)


class Transactions(RecordGenerator):
    """Card payments.

    Fields: ``tx_id`` (unique), ``card_id`` (key), ``ts`` (ms), ``amount``, ``merchant`` (about
    200), ``country``, ``channel``, and ``distance_km`` from home, null for online payments.
    """

    name = "transactions"
    default_entities = 400
    per_day = 24.0
    regularity = 12.0

    def _habits(self, rng: np.random.Generator) -> NDArray[np.float64]:
        cards = self.entities
        self._usual = rng.normal(np.log(40.0), 0.25, cards)  # log of the median amount
        self._spread = rng.uniform(0.2, 0.3, cards)
        ranked = np.argsort(rng.random((cards, MERCHANTS)), axis=1)
        self._merchants = ranked[:, :FAVOURITES]
        self._strangers = ranked[:, FAVOURITES:]
        weights = 1.0 / np.arange(1, FAVOURITES + 1)
        counts = rng.integers(5, FAVOURITES + 1, cards)
        self._favour = _cumulative(np.where(np.arange(FAVOURITES) < counts[:, None], weights, 0))
        lands = np.argsort(rng.random((cards, len(COUNTRIES))), axis=1)
        self._home, self._away, self._foreign = lands[:, 0], lands[:, 1], lands[:, 2:]
        self._channels = _cumulative(rng.dirichlet([0.6, 0.8, 0.4, 0.1], cards))
        early = rng.random(cards) < 0.7
        self._busy = np.where(early, rng.normal(14, 2.5, cards), rng.normal(20, 1.5, cards))
        rate = rng.lognormal(0, 0.15, cards)
        return rate * (0.03 + bump(HOURS, self._busy, 1.5))

    def _key(self, entity: int) -> str:
        return f"card-{entity:05d}"

    def _quiet_hour(self, entity: int) -> float:
        return float(self._busy[entity] + 12)

    def _normal(
        self, rng: np.random.Generator, entity: NDArray[np.int64], times: NDArray[np.int64]
    ) -> Columns:
        count = len(entity)
        drifted = self._drifted(times)
        scale = np.where(drifted, DRIFT_FACTOR, 1.0)
        amount = scale * np.exp(rng.normal(self._usual[entity], self._spread[entity]))
        favourite = self._merchants[entity, pick(rng, self._favour[entity])]
        stays = rng.random(count) < FAVOURITE_SHARE
        at_home = rng.random(count) < HOME_SHARE
        moves = rng.random(count) < DRIFT_ONLINE
        channel = np.where(drifted & moves, ONLINE, pick(rng, self._channels[entity]))
        distance = rng.lognormal(1.5, 0.5, count) + np.where(at_home, 0, rng.uniform(50, 500))
        return {
            "time": times,
            "entity": entity,
            "amount": np.maximum(amount, 0.5),
            "merchant": np.where(stays, favourite, rng.integers(0, MERCHANTS, count)),
            "country": np.where(at_home, self._home[entity], self._away[entity]),
            "channel": channel,
            "distance": np.where(channel == ONLINE, np.nan, distance),
        }

    def _abnormal(
        self, rng: np.random.Generator, kind: Kind, turn: int, entity: int, at_ns: int
    ) -> tuple[str, Columns]:
        count, gap_ns = {
            "point": (1, 0),
            "contextual": (8, 6 * MINUTE_NS),
            "group": (int(rng.integers(15, 31)), 8 * SECOND_NS),
        }[kind]
        gaps = rng.uniform(0.5, 1.5, count) * gap_ns // MILLISECOND_NS * MILLISECOND_NS
        times = at_ns + np.cumsum(gaps.astype(np.int64))
        columns = self._normal(rng, np.full(count, entity), times)
        if kind == "point":
            scale = np.where(self._drifted(times), DRIFT_FACTOR, 1.0)
            columns["amount"] = scale * np.exp(self._usual[entity]) * rng.uniform(20, 50, count)
            return "large_amount", columns
        columns["merchant"] = rng.choice(self._strangers[entity], count)
        columns["channel"] = np.full(count, ONLINE)
        columns["distance"] = np.full(count, np.nan)
        if kind == "contextual":
            # where other cards are at home, if there are any
            elsewhere = np.setdiff1d(self._home, [self._home[entity], self._away[entity]])
            if not len(elsewhere):
                elsewhere = self._foreign[entity]
            columns["country"] = np.full(count, rng.choice(elsewhere))
            return "odd_hour_and_place", columns
        columns["amount"] = rng.uniform(0.5, 3.0, count)
        return "card_testing", columns

    def _encode(self, columns: Columns, first: int) -> list[bytes]:
        countries = [country.encode() for country in COUNTRIES]
        channels = [channel.encode() for channel in CHANNELS]
        rows = zip(
            range(first, first + len(columns["time"])),
            columns["entity"].tolist(),
            (columns["time"] // MILLISECOND_NS).tolist(),
            columns["amount"].tolist(),
            columns["merchant"].tolist(),
            columns["country"].tolist(),
            columns["channel"].tolist(),
            columns["distance"].tolist(),
            strict=True,
        )
        return [
            LINE
            % (
                self.seed,
                number,
                card,
                time,
                amount,
                merchant,
                countries[country],
                channels[channel],
                b"%.1f" % distance if distance == distance else b"null",  # NaN is not itself
            )
            for number, card, time, amount, merchant, country, channel, distance in rows
        ]


def _cumulative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn weights ``[n, k]`` into cumulative probabilities."""
    return np.asarray(np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True))
