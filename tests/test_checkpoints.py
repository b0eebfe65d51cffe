"""Checkpoints on a storage: nothing overwritten, nothing deleted that a restore may need."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from structlog.testing import capture_logs

from connectors.base import Partition
from connectors.checkpoints import Checkpoint, Checkpoints, Place
from connectors.storage import Storage
from schemas.errors import DataError, SetupError
from tests.test_storage import RemoteStorage

# where there is memory to write to, the many small files of the property tests go there
MEMORY = next((place for place in ("/dev/shm",) if Path(place).is_dir()), None)

HERE = Place(Partition("payments", 3), "AbC-_123")


@pytest.fixture(params=[Storage, RemoteStorage])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    made: Storage = request.param(tmp_path)
    return made


@pytest.fixture
def checkpoints(storage: Storage) -> Checkpoints:
    return Checkpoints(storage, "cluster")


def found(checkpoints: Checkpoints, at_most: int, place: Place = HERE) -> list[tuple[int, int]]:
    """Offset and generation of every candidate, in order."""
    return [(x.offset, x.generation) for x in checkpoints.candidates(place, at_most)]


def test_what_is_written_is_found(storage: Storage, checkpoints: Checkpoints) -> None:
    name = checkpoints.write(HERE, 17, 4, b"state")
    assert name == (
        "checkpoints/cluster/payments/AbC-_123/3/"
        f"00000000000000000017-0000000004-{checkpoints.writer}-0000000000-v1"
    )
    assert storage.read(name) == b"state"
    another = Checkpoints(storage, "cluster")
    [checkpoint] = another.candidates(HERE, 17)
    assert checkpoint == Checkpoint(name, 17, 4, checkpoints.writer, b"state")
    assert found(another, 16) == []


def test_each_partition_topic_and_cluster_has_its_own(storage: Storage) -> None:
    checkpoints = Checkpoints(storage, "one")
    checkpoints.write(HERE, 5, 1, b"")
    for place in (
        Place(Partition("payments", 33), HERE.topic_id),
        Place(Partition("payments2", 3), HERE.topic_id),
    ):
        assert found(checkpoints, 9, place) == []
    assert found(Checkpoints(storage, "two"), 9) == []


def test_nothing_is_overwritten(storage: Storage) -> None:
    writers = [Checkpoints(storage, "cluster") for _ in range(3)]
    names = [x.write(HERE, 5, 1, b"%d" % i) for i, x in enumerate(writers * 2)]
    assert len(set(names)) == 6
    assert [storage.read(name) for name in names] == [b"%d" % i for i in range(6)]


files = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 1)), max_size=9)


@given(files, st.integers(0, 7))
@settings(deadline=None)
def test_candidates_are_the_newest_of_one_history(
    wanted: list[tuple[int, int, int]], at_most: int
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        writers = [Checkpoints(Storage(folder), "cluster") for _ in range(2)]
        written = []
        for number, (offset, generation, writer) in enumerate(wanted):
            writers[writer].write(HERE, offset, generation, b"%d" % number)
            written.append((offset, generation, writer, number))
        candidates = list(Checkpoints(Storage(folder), "cluster").candidates(HERE, at_most))

    def left_out(file: tuple[int, int, int, int]) -> bool:
        """Whether another one that is lower down and stays was written later."""
        return any(
            other[0] < file[0]
            and (other[1] > file[1] or (other[2] == file[2] and other[3] > file[3]))
            and not left_out(other)
            for other in written
        )

    good = [file for file in written if file[0] <= at_most and not left_out(file)]
    assert sorted(int(x.data) for x in candidates) == sorted(file[3] for file in good)
    order = [(x.offset, x.generation) for x in candidates]
    assert order == sorted(order, reverse=True)


def test_bytes_are_read_when_asked_for_and_what_has_vanished_is_passed_over(
    storage: Storage, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [checkpoints.write(HERE, offset, 1, b"%d" % offset) for offset in range(4)]
    read: list[str] = []
    original = storage.read

    def note(name: str) -> bytes:
        read.append(name)
        return original(name)

    monkeypatch.setattr(storage, "read", note)
    candidates = checkpoints.candidates(HERE, 3)
    assert next(candidates).offset == 3
    assert read == [names[3]]
    storage.delete(names[2])
    storage.delete(names[0])
    assert [x.offset for x in candidates] == [1]


def test_a_storage_that_is_away_is_no_missing_checkpoint(
    storage: Storage, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    for offset in range(2):
        checkpoints.write(HERE, offset, 1, b"")

    def fail(name: str) -> bytes:
        msg = "away"
        raise SetupError(msg)

    monkeypatch.setattr(storage, "read", fail)
    with pytest.raises(SetupError, match="away"):
        next(checkpoints.candidates(HERE, 9))


def test_checkpoints_of_an_earlier_topic_are_reported_once_and_ignored(storage: Storage) -> None:
    before = HERE._replace(topic_id="before")
    old = Checkpoints(storage, "cluster")
    kept = [old.write(before, offset, 9, b"") for offset in (1, 2, 3, 4)]
    checkpoints = Checkpoints(storage, "cluster")
    own = checkpoints.write(HERE, 2, 1, b"")
    with capture_logs() as logs:
        assert found(checkpoints, 9) == [(2, 1)]
        assert found(checkpoints, 9, HERE._replace(partition=Partition("payments", 0))) == []
    [warning] = logs
    assert warning["log_level"] == "warning"
    assert "earlier topic" in warning["event"]
    assert warning["directory"] == "checkpoints/cluster/payments/before"
    checkpoints.prune(HERE, 9, 1, keep=1)
    assert storage.list() == sorted([own, *kept])


def test_files_with_other_names_are_left_alone(storage: Storage, checkpoints: Checkpoints) -> None:
    name = checkpoints.write(HERE, 2, 1, b"")
    others = [f"{name}.bak", f"{name}/deeper", name.replace("-", "_"), name.rsplit("-", 2)[0]]
    for other in [others[0], *others[2:]]:
        storage.write(other, b"")
    assert found(checkpoints, 9) == [(2, 1)]
    assert checkpoints.prune(HERE, 9, 1, keep=1) == []


def test_files_of_a_later_version_are_left_alone_and_told(storage: Storage) -> None:
    earlier, later = Checkpoints(storage, "cluster", 3), Checkpoints(storage, "cluster", 4)
    earlier.write(HERE, 10, 1, b"earlier")
    theirs = [later.write(HERE, offset, 2, b"later") for offset in (20, 30)]
    assert found(later, 99) == [(30, 2), (20, 2), (10, 1)]
    again = Checkpoints(storage, "cluster", 3)
    with capture_logs() as logs:
        assert found(again, 40) == [(10, 1)]
    [warning] = logs
    assert "later version" in warning["event"]
    assert (warning["name"], warning["version"], warning["ours"]) == (theirs[1], 4, 3)
    assert warning["older_at"] == 10
    with capture_logs() as logs:
        assert found(again, 15) == [(10, 1)]  # the commit was before the upgrade
    assert logs == []
    for offset in (40, 50):
        again.write(HERE, offset, 3, b"earlier")
        again.prune(HERE, offset, 3, keep=1)
    assert [name for name in storage.list() if name in theirs] == theirs
    # when the later version is back, the latest state is the one to go on from
    assert found(later, 99) == [(50, 3), (30, 2), (20, 2)]


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "a b", "ä"])
def test_names_that_are_no_directories_are_refused(storage: Storage, bad: str) -> None:
    with pytest.raises(DataError, match="cannot name"):
        Checkpoints(storage, bad)
    for place in (HERE._replace(topic_id=bad), HERE._replace(partition=Partition(bad, 0))):
        with pytest.raises(DataError, match="cannot name"):
            Checkpoints(storage, "cluster").write(place, 0, 0, b"")


@pytest.mark.parametrize(("offset", "generation"), [(-1, 0), (0, -1)])
def test_names_that_would_not_sort_are_refused(
    checkpoints: Checkpoints, offset: int, generation: int
) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        checkpoints.write(HERE, offset, generation, b"")


def test_the_newest_are_kept_and_what_waits_for_its_commit(checkpoints: Checkpoints) -> None:
    for offset in range(10, 80, 10):
        checkpoints.write(HERE, offset, 2, b"")
    assert len(checkpoints.prune(HERE, 55, 2)) == 2
    assert found(checkpoints, 99) == [(offset, 2) for offset in (70, 60, 50, 40, 30)]
    assert checkpoints.prune(HERE, 55, 2) == []


def test_files_of_others_are_no_reason_to_delete_until_one_is_confirmed(storage: Storage) -> None:
    old = Checkpoints(storage, "cluster")
    for offset in range(10, 60, 10):
        old.write(HERE, offset, 1, b"")
    checkpoints = Checkpoints(storage, "cluster")
    checkpoints.write(HERE, 60, 2, b"")
    assert checkpoints.prune(HERE, 55, 2, keep=1) == []
    restored = list(checkpoints.candidates(HERE, 55))[2]
    checkpoints.confirm(HERE, restored)
    checkpoints.prune(HERE, 55, 2, keep=1)
    assert found(checkpoints, 99) == [(60, 2), (50, 1), (40, 1), (30, 1)]
    checkpoints.prune(HERE, 60, 2, keep=1)
    assert found(checkpoints, 99) == [(60, 2)]


def test_what_a_crashed_writer_left_above_the_commit_goes(storage: Storage) -> None:
    crashed, later = Checkpoints(storage, "cluster"), Checkpoints(storage, "cluster")
    for offset in (10, 30):
        crashed.write(HERE, offset, 1, b"")
    later.write(HERE, 50, 3, b"")
    checkpoints = Checkpoints(storage, "cluster")
    checkpoints.prune(HERE, 20, 2)  # does not know yet whether the file at 10 is whole
    assert found(checkpoints, 99) == [(50, 3), (30, 1), (10, 1)]
    checkpoints.write(HERE, 20, 2, b"")
    assert found(checkpoints, 99) == [(50, 3), (20, 2), (10, 1)]
    checkpoints.prune(HERE, 20, 2)
    assert len(storage.list()) == 3


def test_offsets_set_back_within_a_generation(storage: Storage, checkpoints: Checkpoints) -> None:
    for offset in (10, 20, 30, 5, 15, 25):
        checkpoints.write(HERE, offset, 1, b"")
    assert found(checkpoints, 99) == [(25, 1), (15, 1), (5, 1)]
    checkpoints.prune(HERE, 25, 1)
    assert found(checkpoints, 99) == [(25, 1), (15, 1), (5, 1)]
    checkpoints.write(HERE, 35, 1, b"")
    checkpoints.prune(HERE, 35, 1)
    assert [name.split("/")[-1][:20] for name in storage.list()] == [
        f"{offset:020d}" for offset in (15, 25, 35)
    ]


@pytest.mark.parametrize("deletes", range(6))
def test_pruning_that_breaks_off_brings_no_other_history_back(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, deletes: int
) -> None:
    fenced, owner = Checkpoints(storage, "cluster"), Checkpoints(storage, "cluster")
    for offset in (10, 30):
        fenced.write(HERE, offset, 1, b"")
    for offset in (20, 40, 50, 60):
        owner.write(HERE, offset, 2, b"")
    original, left = storage.delete, iter(range(deletes))

    def break_off(name: str) -> None:
        if next(left, None) is None:
            msg = "away"
            raise SetupError(msg)
        original(name)

    monkeypatch.setattr(storage, "delete", break_off)
    if deletes < 5:
        with pytest.raises(SetupError):
            owner.prune(HERE, 60, 2, keep=1)
    else:
        owner.prune(HERE, 60, 2, keep=1)
    assert (30, 1) not in found(Checkpoints(storage, "cluster"), 99)
    assert len(storage.list()) == 6 - deletes


class Worker:
    """A process that has, or had, the partition, and reads what its own version wrote."""

    def __init__(self, storage: Storage, generation: int, version: int, committed: int) -> None:
        self.checkpoints = Checkpoints(storage, "cluster")
        self.generation, self.version = generation, version
        self.committed = self.position = committed


class Written(NamedTuple):
    offset: int
    generation: int
    version: int


class Owners(RuleBasedStateMachine):
    """Workers that crash, are fenced without knowing, and write and prune when they like.

    An owner of a later version cannot read what earlier ones wrote, and begins with nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.storage = Storage(self.folder.name)
        self.written: dict[str, Written] = {}
        self.taken_over: list[tuple[int, int]] = []
        self.fenced: list[Worker] = []
        self.owner = Worker(self.storage, 1, 1, 0)

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(count=st.integers(1, 5), who=st.integers(0, 3))
    def process(self, count: int, who: int) -> None:
        self.somebody(who).position += count

    @rule(share=st.floats(0, 1))
    def commit(self, share: float) -> None:
        owner = self.owner
        owner.committed += round(share * (owner.position - owner.committed))

    @rule(who=st.integers(0, 3))
    def write(self, who: int) -> None:
        worker = self.somebody(who)
        name = worker.checkpoints.write(HERE, worker.position, worker.generation, b"")
        assert name not in self.written
        self.written[name] = Written(worker.position, worker.generation, worker.version)

    @rule(who=st.integers(0, 3), keep=st.integers(1, 3))
    def prune(self, who: int, keep: int) -> None:
        worker = self.somebody(who)
        args = (HERE, worker.committed, worker.generation, keep)
        deleted = worker.checkpoints.prune(*args)
        assert set(deleted) <= self.written.keys() - set(self.storage.list())
        left = [self.written[name].offset <= worker.committed for name in self.storage.list()]
        if deleted:
            assert sum(left) >= 1
        assert worker.checkpoints.prune(*args) == []

    @rule(step=st.integers(1, 3), newer=st.sampled_from([0, 0, 1]))
    def take_over(self, step: int, newer: int) -> None:
        before = self.owner
        self.fenced.append(before)
        self.owner = Worker(
            self.storage, before.generation + step, before.version + newer, before.committed
        )
        self.taken_over.append((self.owner.generation, before.committed))
        restored = next(self.readable(self.owner.checkpoints, before.committed), None)
        if restored is not None:
            self.owner.checkpoints.confirm(HERE, restored)

    @invariant()
    def the_newest_readable_state_of_the_true_history_is_found(self) -> None:
        committed = self.owner.committed
        for at_most in (committed, committed + 3, 10**6):
            newest = next(self.readable(Checkpoints(self.storage, "cluster"), at_most), None)
            expected = [
                file.offset
                for file in self.written.values()
                if file.version == self.owner.version
                and file.offset <= at_most
                and self.is_true(file)
            ]
            if expected:
                assert newest is not None
                assert newest.offset >= max(expected)

    def somebody(self, who: int) -> Worker:
        """The owner, or one of those that have been fenced last."""
        return self.fenced[-who] if 0 < who <= len(self.fenced) else self.owner

    def readable(self, checkpoints: Checkpoints, at_most: int) -> Iterator[Checkpoint]:
        for checkpoint in checkpoints.candidates(HERE, at_most):
            if self.written[checkpoint.name].version == self.owner.version:
                yield checkpoint

    def is_true(self, file: Written) -> bool:
        """Whether all later owners went on from there, or from above."""
        return all(
            committed >= file.offset
            for generation, committed in self.taken_over
            if generation > file.generation
        )


TestOwners = Owners.TestCase
TestOwners.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
