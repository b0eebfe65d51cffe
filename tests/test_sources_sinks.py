"""Every source and sink under the same checks, and the checks under broken ones."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from connectors.base import Fetch, Output
from connectors.memory import MemorySink, MemorySource
from schemas.config import Kafka
from tests import sources_sinks as suite
from tests.sources_sinks import Place, SinkCase, SourceCase


def marked(cases: Sequence[SourceCase] | Sequence[SinkCase]) -> list[object]:
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.broker] * case.needs_broker)
        for case in cases
    ]


def named(check: Callable[..., None]) -> str:
    return check.__name__.removeprefix("check_")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, topic_name: str) -> Place:
    kafka = None
    if request.node.get_closest_marker("broker"):
        kafka = Kafka(bootstrap=request.getfixturevalue("broker").bootstrap)
    return Place(tmp_path, topic_name, kafka)


@pytest.mark.parametrize("case", marked(suite.SOURCES))
@pytest.mark.parametrize("check", suite.SOURCE_CHECKS, ids=named)
def test_source(check: Callable[[SourceCase, Place], None], case: SourceCase, place: Place) -> None:
    check(case, place)


@pytest.mark.parametrize("case", marked(suite.SINKS))
@pytest.mark.parametrize("check", suite.SINK_CHECKS, ids=named)
def test_sink(check: Callable[[SinkCase, Place], None], case: SinkCase, place: Place) -> None:
    check(case, place)


class CountsOn(MemorySource):
    """Goes on counting offsets at the second reading."""

    read = 0

    def fetches(self) -> Iterator[Fetch]:
        self.read += 1
        for f in super().fetches():
            offsets = f.offsets + 1000 * (self.read - 1)
            yield Fetch(f.partition, offsets, f.timestamps, f.keys, f.values)


class ReadsOnce(MemorySource):
    """Has nothing left for a second reading."""

    def fetches(self) -> Iterator[Fetch]:
        yield from super().fetches()
        self._fetches = ()


class LosesTombstones(MemorySource):
    """Leaves out the values that are null."""

    def fetches(self) -> Iterator[Fetch]:
        for f in super().fetches():
            rows = [i for i, value in enumerate(f.values) if value is not None]
            keys, values = [f.keys[i] for i in rows], [f.values[i] for i in rows]
            yield Fetch(f.partition, f.offsets[rows], f.timestamps[rows], keys, values)


class Backwards(MemorySource):
    """Yields the newest fetch first."""

    def fetches(self) -> Iterator[Fetch]:
        yield from reversed(list(super().fetches()))


class NarrowOffsets(MemorySource):
    """Has 32-bit offsets."""

    def fetches(self) -> Iterator[Fetch]:
        for f in super().fetches():
            narrow = f.offsets.astype(np.int32).view()
            yield Fetch(f.partition, narrow, f.timestamps, f.keys, f.values)  # type: ignore[arg-type]


class NeverEnds(MemorySource):
    """Does not listen to close."""

    def close(self) -> None:
        pass


class FailsEmpty(MemorySource):
    """Takes having nothing for an error."""

    def fetches(self) -> Iterator[Fetch]:
        assert self._fetches
        return super().fetches()


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (CountsOn, {"check_second_reading_is_equal"}),
        (ReadsOnce, {"check_second_reading_is_equal"}),
        (LosesTombstones, {"check_records_come_as_they_are"}),
        (Backwards, {"check_records_come_as_they_are", "check_offsets_increase"}),
        (NarrowOffsets, {"check_columns_are_typed"}),
        (NeverEnds, {"check_close_ends_the_reading_and_may_be_repeated"}),
        (FailsEmpty, {"check_nothing_to_read_is_no_error"}),
    ],
)
def test_a_broken_source_is_caught(
    broken: type[MemorySource], caught: set[str], place: Place
) -> None:
    case = SourceCase("broken", lambda place, fetches: broken(fetches), suite.SOURCES[0].keeps)
    assert caught <= failing(suite.SOURCE_CHECKS, case, place)


class Buffers(MemorySink):
    """Keeps messages to itself until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Output] = []

    def write(self, outputs: Sequence[Output]) -> None:
        self.waiting += outputs

    def close(self) -> None:
        super().write(self.waiting)
        self.waiting = []


class Shuffles(MemorySink):
    """Turns the messages of a call round."""

    def write(self, outputs: Sequence[Output]) -> None:
        super().write(outputs[::-1])


class Repeats(MemorySink):
    """Writes the last message of a call twice."""

    def write(self, outputs: Sequence[Output]) -> None:
        super().write([*outputs, *outputs[-1:]])


class ClosesOnce(MemorySink):
    """Cannot be closed twice."""

    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class RefusesNothing(MemorySink):
    """Takes writing nothing for an error."""

    def write(self, outputs: Sequence[Output]) -> None:
        assert outputs
        super().write(outputs)


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (Buffers, {"check_what_was_written_is_safe_before_close"}),
        (Shuffles, {"check_order_of_a_key_is_kept"}),
        (Repeats, {"check_what_was_written_is_safe_before_close", "check_order_of_a_key_is_kept"}),
        (ClosesOnce, {"check_close_may_be_repeated"}),
        (RefusesNothing, {"check_writing_nothing_is_no_error"}),
    ],
)
def test_a_broken_sink_is_caught(broken: type[MemorySink], caught: set[str], place: Place) -> None:
    case = SinkCase("broken", lambda place: broken(), suite.SINKS[0].values)
    assert caught <= failing(suite.SINK_CHECKS, case, place)


def failing(checks: Sequence[Callable[..., None]], case: object, place: Place) -> set[str]:
    failed = set()
    for check in checks:
        try:
            check(case, place)
        except AssertionError:
            failed.add(check.__name__)
    return failed
