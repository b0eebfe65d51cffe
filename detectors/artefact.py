"""Model files: a directory of JSON and safetensors under a manifest with a checksum of each file.

Nothing here can execute code on load: no pickle, no import by name from the file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from schemas.errors import ArtefactError

MANIFEST = "manifest.json"
FORMAT = 1


class Manifest(msgspec.Struct, frozen=True):
    """Names and SHA-256 checksums of an artefact's files.

    ``artefact_id`` is derived from the checksums: equal content has an equal id.
    """

    format: int
    artefact_id: str
    files: dict[str, str]


def manifest_of(files: dict[str, bytes]) -> Manifest:
    """Describe files given as ``name -> content``."""
    sums = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    whole = hashlib.sha256(msgspec.json.encode(sums)).hexdigest()
    return Manifest(FORMAT, whole[:16], sums)


def pack(files: dict[str, bytes]) -> dict[str, bytes]:
    """Add the manifest to ``name -> content``."""
    return {**files, MANIFEST: msgspec.json.format(msgspec.json.encode(manifest_of(files)))}


def unpack(files: dict[str, bytes], where: str) -> dict[str, bytes]:
    """Check files against their manifest and return them without it.

    Raises
    ------
    ArtefactError
        If the manifest is missing or of a newer format, or a file is missing or was altered.
    """
    if MANIFEST not in files:
        msg = f"{where}: no {MANIFEST}: not a model artefact; write one with 'eddy fit'"
        raise ArtefactError(msg)
    try:
        manifest = msgspec.json.decode(files[MANIFEST], type=Manifest)
    except msgspec.DecodeError as error:
        msg = f"{where}/{MANIFEST}: {error}; fit the model again or roll back to the one before"
        raise ArtefactError(msg) from error
    if manifest.format > FORMAT:
        msg = f"{where}: artefact format {manifest.format}, this Eddy reads up to {FORMAT}; upgrade"
        raise ArtefactError(msg)
    content = {}
    for name, expected in manifest.files.items():
        if name not in files:
            msg = f"{where}/{name}: listed in the manifest but missing; copy the artefact again"
            raise ArtefactError(msg)
        found = hashlib.sha256(files[name]).hexdigest()
        if found != expected:
            msg = (
                f"{where}/{name}: SHA-256 is {found[:16]}…, the manifest says {expected[:16]}…: "
                "the file was altered; restore it or fit the model again"
            )
            raise ArtefactError(msg)
        content[name] = files[name]
    return content


def write(path: Path, files: dict[str, bytes]) -> None:
    """Write files and manifest into the new directory ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        for name, content in pack(files).items():
            with (staging / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if path.exists():
            shutil.rmtree(path)
        staging.rename(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def read(path: Path) -> dict[str, bytes]:
    """Read and check the directory ``path``.

    Raises
    ------
    ArtefactError
        As :func:`unpack`; also if ``path`` is not a directory.
    """
    if not path.is_dir():
        msg = f"{path}: no such model artefact; write one with 'eddy fit'"
        raise ArtefactError(msg)
    return unpack({p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}, str(path))
