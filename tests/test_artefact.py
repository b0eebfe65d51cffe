"""Model files: whole or refused, and nothing in them that could run."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors import Detector, artefact, create, load
from detectors.artefact import FORMAT, MANIFEST
from detectors.catalogue import CATALOGUE, detector_class, from_files
from detectors.detector import DESCRIPTION, WEIGHTS
from schemas.errors import ArtefactError, DataError

names = st.from_regex(r"[a-z]{1,8}\.(json|safetensors)", fullmatch=True).filter(
    lambda name: name != MANIFEST
)
contents = st.dictionaries(names, st.binary(max_size=64), min_size=1, max_size=4)


@pytest.fixture
def fitted() -> Detector:
    return create("pca", seed=3, components=2).fit(np.random.default_rng(0).normal(size=(80, 4)))


@settings(deadline=None)
@given(contents)
def test_what_is_packed_unpacks(files: dict[str, bytes]) -> None:
    assert artefact.unpack(artefact.pack(files), "model") == files


@settings(deadline=None)
@given(contents)
def test_equal_content_has_an_equal_id(files: dict[str, bytes]) -> None:
    backwards = dict(reversed(files.items()))
    assert artefact.manifest_of(files) == artefact.manifest_of(backwards)


@settings(deadline=None)
@given(contents, st.data())
def test_an_altered_file_is_refused(files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    other = data.draw(st.binary(max_size=64).filter(lambda content: content != files[name]))
    with pytest.raises(ArtefactError, match="was altered"):
        artefact.unpack({**artefact.pack(files), name: other}, "model")


@settings(deadline=None)
@given(contents, st.data())
def test_a_missing_file_is_refused(files: dict[str, bytes], data: st.DataObject) -> None:
    packed = artefact.pack(files)
    del packed[data.draw(st.sampled_from(sorted(files)))]
    with pytest.raises(ArtefactError, match="missing"):
        artefact.unpack(packed, "model")


@settings(deadline=None)
@given(contents)
def test_files_that_the_manifest_does_not_list_are_left_out(files: dict[str, bytes]) -> None:
    packed = artefact.pack(files)
    assert artefact.unpack({**packed, "extra.pkl": b"\x80\x05"}, "model") == files


def test_files_without_manifest_are_refused() -> None:
    with pytest.raises(ArtefactError, match=f"no {MANIFEST}"):
        artefact.unpack({"a.json": b"{}"}, "model")


def test_a_broken_manifest_is_refused() -> None:
    with pytest.raises(ArtefactError, match="roll back"):
        artefact.unpack({MANIFEST: b"{"}, "model")


def test_a_newer_format_is_refused_before_its_files_are_read() -> None:
    packed = artefact.pack({"a.json": b"{}"})
    manifest = msgspec.json.decode(packed[MANIFEST])
    newer = msgspec.json.encode({**manifest, "format": FORMAT + 1, "files": {"b": "0"}})
    with pytest.raises(ArtefactError, match=f"format {FORMAT + 1}.*upgrade"):
        artefact.unpack({MANIFEST: newer}, "model")


def test_a_directory_is_written_whole_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "models" / "one"
    artefact.write(path, {"a.json": b"1", "b.json": b"2"})
    artefact.write(path, {"a.json": b"3"})
    assert artefact.read(path) == {"a.json": b"3"}
    assert [p.name for p in path.parent.iterdir()] == ["one"]


def test_a_failed_write_leaves_the_old_directory(tmp_path: Path) -> None:
    path = tmp_path / "one"
    artefact.write(path, {"a.json": b"1"})
    with pytest.raises(OSError, match="no/such"):
        artefact.write(path, {"a.json": b"2", "no/such.json": b"3"})
    assert artefact.read(path) == {"a.json": b"1"}
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_reading_nothing_says_how_to_get_something(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="eddy fit"):
        artefact.read(tmp_path / "nothing")


def test_a_saved_detector_loads(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "pca")
    loaded = load(tmp_path / "pca")
    windows = np.random.default_rng(1).normal(size=(9, 4))
    assert torch.equal(loaded.score(windows).score, fitted.score(windows).score)
    assert (loaded.config, loaded.seed, loaded.shape) == (fitted.config, 3, fitted.shape)


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS, MANIFEST])
def test_a_detector_without_one_of_its_files_is_refused(
    name: str, fitted: Detector, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "pca")
    (tmp_path / "pca" / name).unlink()
    with pytest.raises(ArtefactError, match=name):
        load(tmp_path / "pca")


def test_a_detector_altered_on_disk_is_refused(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "pca")
    content = bytearray((tmp_path / "pca" / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "pca" / WEIGHTS).write_bytes(content)
    with pytest.raises(ArtefactError, match="SHA-256"):
        load(tmp_path / "pca")


def test_weights_of_another_detector_are_refused(fitted: Detector) -> None:
    other = create("knn").fit(np.random.default_rng(0).normal(size=(80, 4)))
    with pytest.raises(ArtefactError, match="does not fit pca"):
        from_files({**fitted.to_files(), WEIGHTS: other.to_files()[WEIGHTS]}, "model")


def test_a_description_of_nothing_known_is_refused(fitted: Detector) -> None:
    files = fitted.to_files()
    changed = files[DESCRIPTION].replace(b'"pca"', b'"pcb"')
    with pytest.raises(DataError, match="did you mean 'pca'"):
        from_files({**files, DESCRIPTION: changed}, "model")
    with pytest.raises(ArtefactError, match="not a detector"):
        from_files({**files, DESCRIPTION: b"[]"}, "model")


def test_moving_the_directory_changes_nothing(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "pca")
    shutil.move(tmp_path / "pca", tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").to_files() == fitted.to_files()


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_leads_to_classes_of_that_name(name: str) -> None:
    assert detector_class(name).caps.name == name
    assert name in repr(create(name))
