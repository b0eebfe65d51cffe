"""The spill: bytes by key on the local disk, and what becomes of it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.spill import Spill, SpillSpace
from schemas.errors import SetupError

KEY = st.binary(min_size=1, max_size=3)
MEMORY = Spill.memory_of(0)


def made(directory: Path) -> Spill:
    return Spill(SpillSpace(str(directory)), MEMORY)


@given(st.lists(st.dictionaries(KEY, st.binary(max_size=9), min_size=1), max_size=5), KEY)
def test_a_key_has_the_value_that_was_put_last(puts: list[dict[bytes, bytes]], key: bytes) -> None:
    spill, expected = Spill(SpillSpace(None), MEMORY), dict[bytes, bytes]()
    for batch in puts:
        spill.put(list(batch), batch.values())
        expected |= batch
        asked = [*batch, key]
        assert spill.get(asked) == [expected.get(x) for x in asked]
    spill.close()


def test_a_copy_is_of_its_moment(tmp_path: Path) -> None:
    spill = made(tmp_path)
    spill.put([b"a", b"b"], [b"1", b"2"])
    copy = spill.copy()
    spill.put([b"a", b"c"], [b"3", b"4"])
    later = spill.copy()
    assert {p.name for p in copy.immutable} < {p.name for p in later.immutable}
    for again, values in ((copy, [b"1", b"2", None]), (later, [b"3", b"2", b"4"])):
        other = Spill(SpillSpace(str(tmp_path)), MEMORY, again)
        assert other.get([b"a", b"b", b"c"]) == values
        other.put([b"a"], [b"5"])
        assert other.get([b"a"]) == [b"5"]
        other.close()
    assert spill.get([b"a"]) == [b"3"]
    spill.close()
    folder = copy.folder
    assert folder.is_dir()
    del copy, again
    assert not folder.exists()


def test_what_a_crashed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from connectors.spill import *\n"
        "s = Spill(SpillSpace(sys.argv[1]), 1 << 18); s.put([b'a'], [b'1']); os._exit(9)"
    )
    crashed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert crashed.returncode == 9
    [left] = tmp_path.rglob("process-*")
    live = made(tmp_path)
    live.put([b"a"], [b"2"])
    assert not left.exists()
    SpillSpace(str(tmp_path)).sweep()
    assert live.get([b"a"]) == [b"2"]  # whoever is there keeps its own
    [own] = tmp_path.rglob("process-*")
    live.close()
    del live
    assert not own.exists()


def test_a_process_may_end_while_another_looks_for_what_is_left(tmp_path: Path) -> None:
    live = made(tmp_path)
    live.put([b"a"], [b"1"])
    [own] = tmp_path.rglob("process-*")
    (own.parent / "process-gone").symlink_to("gone")  # listed, and not there when opened
    other = made(tmp_path)
    other.put([b"a"], [b"2"])
    assert live.get([b"a"]) == [b"1"]
    live.close()
    other.close()


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    SpillSpace(str(tmp_path / "missing")).sweep()
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"state\.spill: cannot use .*file.*local disk"):
        SpillSpace(str(tmp_path / "file")).new()


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files of this process that may not grow over 100 KB, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_an_error_and_not_a_loss(tmp_path: Path) -> None:
    spill = made(tmp_path)
    values = [os.urandom(1000) for _ in range(100)]

    def fill() -> None:
        for turn in range(10_000):
            spill.put([b"%d-%d" % (turn, at) for at in range(100)], values)

    with pytest.raises(SetupError, match=r"state\.spill: .* does not work .*disk is full"):
        fill()
    spill.close()


def test_damage_on_the_disk_is_an_error_that_names_it(tmp_path: Path) -> None:
    spill = made(tmp_path)
    spill.put([b"a"], [b"1" * 1000])
    copy = spill.copy()
    [file] = copy.immutable
    data = bytearray(file.read_bytes())
    os.remove(file)
    data[10:200] = bytes(190)
    file.write_bytes(data)
    with pytest.raises(SetupError, match=r"state\.spill: .* does not work .*checksum"):
        Spill(SpillSpace(str(tmp_path)), MEMORY, copy).get([b"a"])
    spill.close()
