"""Segments: checkpoints share them, and none goes that one of them needs."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from structlog.testing import capture_logs

from agents.registry import Registry
from connectors.base import Output, flatten
from connectors.checkpoints import Checkpoints
from connectors.segments import Segment, framed, needed, unframed
from connectors.storage import Storage
from schemas.config import Size, State
from schemas.errors import DataError
from tests.pipelines import fetch, payments
from tests.test_checkpoints import HERE, Owners, Written
from tests.test_recovery import Worker, made, model, scored

STEP = 100
RECORDS = payments(3000, seed=6, cards=300)
LIMITED = msgspec.structs.replace(made(), state=State(memory=Size(1)))


# -- names before the bytes -------------------------------------------------------------------


@given(st.binary(max_size=50), st.sets(st.from_regex(r"[a-z0-9-]{1,9}", fullmatch=True)))
def test_the_names_stand_before_the_bytes(data: bytes, names: set[str]) -> None:
    whole = b"".join(framed(data, names))
    assert needed(io.BytesIO(whole)) == names
    assert unframed(whole) == data
    if names:
        for cut in (10, 28):
            with pytest.raises(DataError, match="altered or cut off"):
                needed(io.BytesIO(whole[:cut]))
        altered = whole[:28] + bytes([whole[28] ^ 1]) + whole[29:]
        with pytest.raises(DataError, match="altered or cut off"):
            needed(io.BytesIO(altered))


def test_a_segment_is_what_was_written(tmp_path: Path) -> None:
    files = Checkpoints(Storage(tmp_path), "cluster")
    segment = files.segments.write("folder", 1, b"bytes")
    assert files.segments.read("folder", segment) == b"bytes"
    (tmp_path / "folder" / segment.name).write_bytes(b"other")
    with pytest.raises(DataError, match="altered or cut off"):
        files.segments.read("folder", segment)
    with pytest.raises(DataError, match="holds no folder/gone"):
        files.segments.read("folder", Segment("gone", 0, ""))


# -- pruning ----------------------------------------------------------------------------------


class SegmentOwners(Owners):
    """Workers whose checkpoints share segments, some of which they need no longer each time."""

    def __init__(self) -> None:
        super().__init__()
        self.needs: dict[str, set[str]] = {}
        self.live: dict[str, list[Segment]] = {}

    @rule(who=st.integers(0, 3), fresh=st.integers(0, 2), stay=st.sampled_from([0, 1, 9]))
    def write(self, who: int, fresh: int, stay: int) -> None:
        worker = self.somebody(who)
        files, folder = worker.checkpoints, worker.checkpoints.folder(HERE)
        there = files.names(HERE)
        live = self.live.get(files.writer, [])
        live = live[-stay:] if stay else []
        live = [
            x if x.name in there else files.segments.write(folder, worker.generation, b"")
            for x in live
        ]
        live += [files.segments.write(folder, worker.generation, b"") for _ in range(fresh)]
        needs = {segment.name for segment in live}
        name = files.write(HERE, worker.position, worker.generation, b"", needs)
        self.live[files.writer], self.needs[name] = live, needs
        self.written[name] = Written(worker.position, worker.generation, worker.version)

    @rule(who=st.integers(0, 3), keep=st.integers(1, 3))
    def prune(self, who: int, keep: int) -> None:
        worker = self.somebody(who)
        before = set(self.storage.list())
        args = (HERE, worker.committed, worker.generation, keep)
        deleted = worker.checkpoints.prune(*args)
        assert set(deleted) == before - set(self.storage.list())
        for _ in range(2):  # so that nothing idle is left; nor do these take what is needed
            worker.checkpoints.prune(*args)
        assert worker.checkpoints.prune(*args) == []

    @rule(step=st.integers(1, 3), newer=st.sampled_from([0, 0, 1]))
    def take_over(self, step: int, newer: int) -> None:
        super().take_over(step, newer)
        restored = next(self.readable(self.owner.checkpoints, self.owner.committed), None)
        if restored is not None:
            names = sorted(self.needs[restored.name])
            self.live[self.owner.checkpoints.writer] = [Segment(name, 0, "") for name in names]

    @invariant()
    def every_checkpoint_has_its_segments(self) -> None:
        names = Checkpoints(self.storage, "cluster").names(HERE)
        for name, needs in self.needs.items():
            if name.split("/")[-1] in names:
                assert needs <= names


TestSegmentOwners = SegmentOwners.TestCase
TestSegmentOwners.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_what_no_checkpoint_needs_goes_and_what_others_may_need_stays(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    crashed, owner = Checkpoints(storage, "cluster"), Checkpoints(storage, "cluster")
    later, folder = Checkpoints(storage, "cluster"), owner.folder(HERE)
    left = crashed.segments.write(folder, 1, b"")  # and no checkpoint for it
    coming = later.segments.write(folder, 3, b"")  # its checkpoint is still to come
    old, kept, new = (owner.segments.write(folder, 2, b"") for _ in range(3))
    owner.write(HERE, 10, 2, b"", [old.name, kept.name])
    owner.prune(HERE, 10, 2, keep=1)
    owner.write(HERE, 20, 2, b"", [kept.name, new.name])
    assert f"{folder}/{left.name}" in owner.prune(HERE, 20, 2, keep=1)
    assert f"{folder}/{old.name}" in storage.list()
    assert owner.prune(HERE, 20, 2, keep=1) == [f"{folder}/{old.name}"]
    assert {coming.name, kept.name, new.name} < owner.names(HERE)


def test_nothing_goes_where_a_checkpoint_does_not_tell_what_it_needs(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    earlier, owner = Checkpoints(storage, "cluster"), Checkpoints(storage, "cluster")
    folder = owner.folder(HERE)
    segment = earlier.segments.write(folder, 1, b"")
    name = earlier.write(HERE, 10, 1, b"", [segment.name])
    storage.write(name, storage.read(name)[:30])
    owner.write(HERE, 20, 2, b"")
    for _ in range(3):
        assert owner.prune(HERE, 20, 2, keep=2) == []
    assert owner.prune(HERE, 20, 2, keep=1) == [name]
    assert owner.prune(HERE, 20, 2, keep=1) == [f"{folder}/{segment.name}"]


# -- workers whose keys have no room ----------------------------------------------------------


class Spilling(Worker):
    def __init__(self, folder: Path, settings: object = LIMITED) -> None:
        super().__init__(folder, settings)  # type: ignore[arg-type]

    def feed(self, first: int, end: int, *, checkpoint: bool = False) -> list[Output]:
        seen: list[Output] = []
        for at in range(first, end, STEP):
            self.clock += 100.0 * checkpoint
            batch = self.handler.process([fetch(list(RECORDS[at : at + STEP]), first=at)])
            self.handler.committed(batch.positions)
            self.handler._checkpointer._writer.submit(lambda: None).result()
            seen += flatten(batch.outputs)
        return [o for o in seen if o.topic == "payments.scored"]


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """A storage with a model, and what a worker with room for all makes of the records."""
    folder = tmp_path_factory.mktemp("storage")
    registry = Registry(Storage(folder))
    registry.promote("payments", "ecod", registry.save(model(seed=1)))
    worker = Spilling(folder, made())
    worker.take_on(0)
    events = scored(worker.feed(0, 3000))
    assert worker.handler.pipeline.keys().spilled == 0
    for name in Storage(folder).list("checkpoints"):
        Storage(folder).delete(name)
    return folder, events


@pytest.fixture
def storage(fitted_once: tuple[Path, list[bytes]], tmp_path: Path) -> Path:
    for name in Storage(fitted_once[0]).list():
        Storage(tmp_path).write(name, Storage(fitted_once[0]).read(name))
    return tmp_path


def segments_of(storage: Path) -> list[Path]:
    return sorted((storage / "checkpoints").rglob("segment-*"))


@pytest.mark.parametrize("room", [False, True])
def test_a_successor_has_the_keys_that_were_on_the_disk_of_the_other(
    storage: Path, fitted_once: tuple[Path, list[bytes]], room: bool
) -> None:
    first = Spilling(storage)
    first.take_on(0)
    seen = first.feed(0, 1000, checkpoint=True) + first.feed(1000, 1500)
    assert first.handler.pipeline.keys().spilled > 150
    second = Spilling(storage, made() if room else LIMITED)
    assert second.take_on(1500, generation=2) == 1000
    assert second.feed(1000, 1500) == []
    seen += second.feed(1500, 2500, checkpoint=True)
    third = Spilling(storage)
    assert third.take_on(2500, generation=3) == 2500
    seen += third.feed(2500, 3000)
    assert scored(seen) == fitted_once[1]
    assert len(seen) > 1000


@pytest.mark.parametrize("damage", ["gone", "altered", "cut"])
def test_a_checkpoint_without_its_segments_is_passed_over(
    storage: Path, fitted_once: tuple[Path, list[bytes]], damage: str
) -> None:
    worker = Spilling(storage)
    worker.take_on(0)
    seen = worker.feed(0, 1000, checkpoint=True)
    before = segments_of(storage)
    seen += worker.feed(1000, 1100, checkpoint=True)
    [newest] = sorted(set(segments_of(storage)) - set(before))[-1:]
    data = newest.read_bytes()
    newest.write_bytes(data[:-20] + (b"" if damage == "cut" else bytes(20)))
    if damage == "gone":
        newest.unlink()
    successor = Spilling(storage)
    with capture_logs() as logs:
        assert successor.take_on(1100, generation=2) == 1000
    [line] = [x for x in logs if x["event"] == "checkpoint passed over"]
    assert newest.name in line["why"]
    assert successor.feed(1000, 1100) == []
    assert scored(seen + successor.feed(1100, 3000)) == fitted_once[1]


def test_a_segment_that_is_missing_is_written_again(storage: Path) -> None:
    worker = Spilling(storage)
    worker.take_on(0)
    worker.feed(0, 1000, checkpoint=True)
    segments_of(storage)[-1].unlink()
    worker.clock += 100
    worker.feed(1000, 1100, checkpoint=True)
    assert Spilling(storage).take_on(1100, generation=2) == 1100


def test_segments_are_written_once_and_few_are_left(storage: Path) -> None:
    worker, written, most = Spilling(storage), [], 0
    original = Storage.write

    def note(self: Storage, name: str, data: bytes) -> None:
        written.append(name)
        original(self, name, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Storage, "write", note)
        worker.take_on(0)
        for first in range(0, 3000, STEP):
            worker.feed(first, first + STEP, checkpoint=True)
            most = max(most, len(segments_of(storage)))
    names = [name for name in written if "segment-" in name]
    assert len(names) == len(set(names)) >= 20
    assert most < len(names)  # those that compaction replaced have gone
