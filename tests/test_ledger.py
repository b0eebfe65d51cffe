"""The ledger: a commit never passes what is done, and never goes back."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from connectors.base import Partition
from connectors.kafka.ledger import Ledger

PLACES = [Partition("t", 0), Partition("t", 1)]
places = st.sampled_from(PLACES)


def test_only_what_is_done_may_be_committed() -> None:
    ledger = Ledger()
    ledger.assign(PLACES[0], 10)
    ledger.received(PLACES[0], 20, records=10, size=100)
    ledger.received(PLACES[0], 30, records=7, size=70)
    assert ledger.committable() == {}
    ledger.done(PLACES[0], 20)
    assert ledger.committable() == {PLACES[0]: 20}
    assert (ledger.pending(PLACES[0]), ledger.size) == (7, 70)
    ledger.committed(PLACES[0], 20)
    assert ledger.committable() == {}


def test_a_position_within_a_fetch_leaves_the_fetch_pending() -> None:
    ledger = Ledger()
    ledger.assign(PLACES[0], 0)
    ledger.received(PLACES[0], 10, records=10, size=10)
    ledger.done(PLACES[0], 4)
    assert ledger.committable() == {PLACES[0]: 4}
    assert ledger.pending(PLACES[0]) == 10


def test_replayed_records_are_not_committed_again() -> None:
    ledger = Ledger()
    ledger.assign(PLACES[0], committed=100, start=40)
    ledger.received(PLACES[0], 90)
    ledger.done(PLACES[0], 90)
    assert ledger.committable() == {}
    ledger.received(PLACES[0], 110)
    ledger.done(PLACES[0], 110)
    assert ledger.committable() == {PLACES[0]: 110}


def test_reading_must_not_start_beyond_the_commit() -> None:
    with pytest.raises(ValueError, match="beyond the commit"):
        Ledger().assign(PLACES[0], committed=5, start=6)


def test_what_was_not_handed_out_cannot_be_done() -> None:
    ledger = Ledger()
    ledger.assign(PLACES[0], 0)
    ledger.received(PLACES[0], 5)
    with pytest.raises(ValueError, match="done up to 6, handed out up to 5"):
        ledger.done(PLACES[0], 6)


def test_nothing_is_handed_out_twice() -> None:
    ledger = Ledger()
    ledger.assign(PLACES[0], 0)
    ledger.received(PLACES[0], 5)
    with pytest.raises(ValueError, match="now again 5"):
        ledger.received(PLACES[0], 5)


class Model(RuleBasedStateMachine):
    """Any order of events, against the plainest account of what they mean."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.floor: dict[Partition, int] = {}
        self.received: dict[Partition, int] = {}
        self.done: dict[Partition, int] = {}
        self.handed: dict[Partition, list[tuple[int, int, int]]] = {}

    @rule(place=places, committed=st.integers(0, 50), back=st.integers(0, 20))
    def assign(self, place: Partition, committed: int, back: int) -> None:
        start = max(0, committed - back)
        self.ledger.assign(place, committed, start)
        self.floor[place] = committed
        self.received[place] = self.done[place] = start
        self.handed[place] = []

    @rule(place=places)
    def revoke(self, place: Partition) -> None:
        self.ledger.revoke([place])
        for book in (self.floor, self.received, self.done, self.handed):
            book.pop(place, None)

    @rule(place=places, step=st.integers(1, 30), records=st.integers(1, 30))
    def hand_out(self, place: Partition, step: int, records: int) -> None:
        offset = self.received.get(place, 0) + step
        self.ledger.received(place, offset, records, 3 * records)
        if place in self.received:
            self.received[place] = offset
            self.handed[place].append((offset, records, 3 * records))

    @rule(place=places, share=st.floats(0, 1))
    def finish(self, place: Partition, share: float) -> None:
        offset = int(share * self.received.get(place, 0))
        self.ledger.done(place, offset)
        if place in self.done:
            self.done[place] = max(self.done[place], offset)

    @rule()
    def commit(self) -> None:
        for place, offset in self.ledger.committable().items():
            assert offset > self.floor[place]
            self.ledger.committed(place, offset)
            self.floor[place] = offset

    @invariant()
    def books_agree(self) -> None:
        assert self.ledger.positions() == self.done
        news = {x: y for x, y in self.done.items() if y > self.floor[x]}
        assert self.ledger.committable() == news
        open_ = {p: [x for x in h if x[0] > self.done[p]] for p, h in self.handed.items()}
        for place in PLACES:
            records = sum(x[1] for x in open_.get(place, []))
            assert self.ledger.pending(place) == records
            assert (place in self.ledger) == (place in self.done)
        assert self.ledger.size == sum(x[2] for left in open_.values() for x in left)


TestModel = Model.TestCase
