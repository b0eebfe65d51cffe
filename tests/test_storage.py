"""Files in a storage: whole or not at all, under legal names, wherever it is."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from connectors.storage import MANIFEST, TEMPORARY, Storage
from schemas.errors import ConfigError, DataError, SetupError

BAD_NAMES = ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a\\b", "a\nb", f"{TEMPORARY}a"]


class RemoteStorage(Storage):
    """A storage that treats a directory as it would an object store."""

    def __init__(self, uri: str | Path) -> None:
        super().__init__(uri)
        self._local = False
        # object stores make no directories: the test file system must do it by itself
        self._fs = _MakesDirectories(self._fs)


class _MakesDirectories:
    def __init__(self, inner: fs.FileSystem) -> None:
        self._inner = inner

    def open_output_stream(self, name: str) -> pa.NativeFile:
        self._inner.create_dir(name.rpartition("/")[0] or ".", recursive=True)
        return self._inner.open_output_stream(name)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


@pytest.fixture(params=["directory", "file URI", "remote"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    place = tmp_path / "a place"
    if request.param == "file URI":
        return Storage(place.as_uri())
    return RemoteStorage(place) if request.param == "remote" else Storage(place)


def test_what_is_written_is_read(storage: Storage) -> None:
    storage.write("a/b/c.bin", b"first, and longer")
    storage.write("a/b/c.bin", b"second")
    storage.write("d", b"")
    assert storage.read("a/b/c.bin") == b"second"
    assert storage.read("d") == b""
    with storage.open("a/b/c.bin") as file:
        file.seek(3)
        assert file.read(2) == b"on"


def test_files_are_listed_below_a_directory(storage: Storage) -> None:
    for name in ("b", "a/2", "a/1", "a/x/3", "ab/4"):
        storage.write(name, name.encode())
    assert storage.list() == ["a/1", "a/2", "a/x/3", "ab/4", "b"]
    assert storage.list("a") == storage.list("a/") == ["a/1", "a/2", "a/x/3"]
    assert storage.list("nothing") == []
    sizes = {file.name: file.size_bytes for file in storage.files()}
    assert sizes == {"a/1": 3, "a/2": 3, "a/x/3": 5, "ab/4": 4, "b": 1}
    assert all(file.modified_ns > 1_600_000_000_000_000_000 for file in storage.files())


def test_what_is_deleted_is_gone(storage: Storage) -> None:
    storage.write("a/1", b"")
    storage.delete("a/1")
    storage.delete("a/1")
    storage.delete("never/was")
    assert storage.list() == []
    with pytest.raises(DataError, match="holds no a/1"):
        storage.read("a/1")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(storage: Storage, name: str) -> None:
    for act in (storage.read, storage.delete, storage.open, lambda name: storage.write(name, b"")):
        with pytest.raises(DataError, match="no name for a stored file"):
            act(name)
    with pytest.raises(DataError, match="no name for a stored file"):
        storage.write_all("set", {MANIFEST: b"", name: b""})


@given(st.text(min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_name_is_kept_or_refused(tmp_path: Path, name: str) -> None:
    place = Storage(tmp_path / "names")
    try:
        place.write(name, b"x")
    except (DataError, SetupError):
        assert place.list() == []
    else:
        assert place.list() == [name]
        place.delete(name)


def test_a_set_is_complete_with_its_manifest(storage: Storage) -> None:
    files = {MANIFEST: b"{}", "weights/a": b"1", "b": b"2"}
    storage.write_all("models/1", files)
    assert storage.read_all("models/1") == files
    storage.write_all("models/1", {MANIFEST: b"[]", "b": b"3"})
    assert storage.read_all("models/1") == {MANIFEST: b"[]", "b": b"3"}
    assert storage.list() == ["models/1/b", f"models/1/{MANIFEST}"]


def test_a_set_that_was_not_finished_is_none(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a": b"1", MANIFEST: b"{}", "z": b"2"}
    storage.write_all("set", files)
    write = storage.write

    def fail_at_the_manifest(name: str, data: bytes) -> None:
        if name.endswith(MANIFEST):
            msg = "out of space"
            raise SetupError(msg)
        write(name, data)

    monkeypatch.setattr(storage, "write", fail_at_the_manifest)
    with pytest.raises(SetupError):
        storage.write_all("set", files)
    assert storage.list("set") == ["set/a", "set/z"]
    with pytest.raises(DataError, match="set is incomplete"):
        storage.read_all("set")


def test_a_set_needs_a_manifest(storage: Storage) -> None:
    with pytest.raises(DataError, match=MANIFEST):
        storage.write_all("set", {"a": b""})
    with pytest.raises(DataError, match="set is not there"):
        storage.read_all("set")


def test_tables(storage: Storage) -> None:
    table = pa.table({"n": [1, 2, 3], "s": ["a", None, "c"]})
    size = storage.write_table("t/a.parquet", table)
    assert storage.files()[0].size_bytes == size
    assert storage.read_table("t/a.parquet").equals(table)
    storage.write("t/a.parquet", b"something else")
    with pytest.raises(DataError, match=r"a\.parquet is no whole Parquet file"):
        storage.read_table("t/a.parquet")


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    contents = [bytes([n]) * 200_000 for n in range(2)]
    storage.write("file", contents[0])
    done = threading.Event()

    def write() -> None:
        for n in range(100):
            storage.write("file", contents[n % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert storage.read("file") in contents
        assert storage.list() == ["file"]
    writer.join()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path)
    storage.write("a", b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(SetupError, match=r"cannot write a to storage .*No space left"):
        storage.write("a", b"new")
    assert storage.read("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_place_that_cannot_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=f"cannot open storage {tmp_path}/file/below"):
        Storage(tmp_path / "file" / "below")


def test_unknown_schemes() -> None:
    with pytest.raises(ConfigError, match="no scheme 'ftp'"):
        Storage("ftp://host/path")


def stand_in(from_uri: Callable[[str], tuple[fs.FileSystem, str]]) -> SimpleNamespace:
    """``pyarrow.fs`` with another way to read URIs."""
    return SimpleNamespace(**{**vars(fs), "FileSystem": SimpleNamespace(from_uri=from_uri)})


def test_messages_show_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str) -> tuple[fs.FileSystem, str]:
        msg = f"cannot reach {uri}"
        raise OSError(msg)

    monkeypatch.setattr("connectors.storage.fs", stand_in(refuse))
    with pytest.raises(SetupError) as caught:
        Storage("s3://id:secret@bucket/path?endpoint_override=nobody&scheme=http")
    assert "storage s3://bucket/path: cannot reach s3://bucket/path." in str(caught.value)
    assert "secret" not in str(caught.value)


def test_google_storage_is_not_tried_for_a_quarter_of_an_hour(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def note(uri: str) -> tuple[fs.FileSystem, str]:
        asked.append(uri)
        return fs.LocalFileSystem(), str(tmp_path)

    monkeypatch.setattr("connectors.storage.fs", stand_in(note))
    for uri in ("gs://b/x", "gs://b/x?scheme=http", "gs://b/x?retry_limit_seconds=5", "s3://b/x"):
        Storage(uri)
    assert asked == [
        "gs://b/x?retry_limit_seconds=60",
        "gs://b/x?scheme=http&retry_limit_seconds=60",
        "gs://b/x?retry_limit_seconds=5",
        "s3://b/x",
    ]
