"""Checks of what is learned and stored: seeds, files, size, updates."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch

from detectors import artefact
from detectors.checks.subject import (
    QUICK,
    Subject,
    refused,
    require,
    require_close,
    small,
    tensors,
)
from detectors.detector import DESCRIPTION, WEIGHTS, Description, Detector
from schemas.errors import ArtefactError, DataError, NotFittedError

MANY = 6000
"""Windows after which a detector must have reached the largest size it will ever have; a setting
``memory`` is lowered to a tenth of it, so that the bound is in sight."""


def unfitted_refused(subject: Subject, name: str) -> None:
    """Require that nothing can be scored, updated or saved before a fit."""
    data, label = small(name), subject.cls.caps.name
    with refused(NotFittedError, "scoring before fit", label):
        subject.new().score(data)
    with refused(NotFittedError, "saving before fit", label):
        subject.new().to_files()
    with refused((NotFittedError, DataError), "updating before fit", label):
        subject.new().partial_fit(data)


def same_seed_same_scores(subject: Subject, name: str) -> None:
    """Require that two fits with one seed give the same bits, and a fitted one can be refitted."""
    data = small(name, seed=2)
    first = subject.fit(small(name), seed=4)
    expected, files = first.score(data).score, first.to_files()
    again = subject.fit(small(name), seed=4)
    require(torch.equal(again.score(data).score, expected), "same seed, other scores")
    first.fit(small(name, seed=8), subject.labels(len(data)), budget=QUICK)
    first.fit(small(name), subject.labels(len(data)), budget=QUICK)
    require(first.to_files() == files, "a second fit depends on the first")


def seed_matters(subject: Subject, name: str) -> None:
    """Require that another seed trains another model."""
    one, other = (subject.fit(small(name), seed=seed) for seed in (1, 2))
    data = small(name, seed=2)
    same = torch.equal(one.score(data).score, other.score(data).score)
    require(not same, "seeds 1 and 2 give equal scores: the seed is not used")


def round_trip(subject: Subject, name: str) -> None:
    """Require the same bits from a fresh process that has only the files, none of them a pickle."""
    names = subject.inputs()
    with tempfile.TemporaryDirectory() as folder:
        expected = {}
        for name in names:
            detector, data = subject.quick(name), small(name, seed=2)
            path = Path(folder, name)
            detector.save(path)
            for file in path.iterdir():
                _require_plain(file)
            expected[name] = tensors(detector.score(data, explain="full"))
        _score_elsewhere(subject.cls, folder, names)
        for name in names:
            found = safetensors.torch.load_file(Path(folder, f"{name}.scores"))
            require(set(found) == set(expected[name]), f"{name}: other parts after loading")
            for part, value in found.items():
                equal = torch.equal(value, expected[name][part])
                require(equal, f"{name}: {part} differs in a fresh process")


def _require_plain(file: Path) -> None:
    """Require JSON, or the eight bytes of length and the JSON header of safetensors."""
    content = file.read_bytes()
    starts = {".json": content[:1], ".safetensors": content[8:9]}
    require(starts.get(file.suffix) == b"{", f"{file.name}: neither JSON nor safetensors")


def _score_elsewhere(cls: type[Detector], folder: str, names: list[str]) -> None:
    command = [sys.executable, "-m", "detectors.checks.fresh", cls.__module__, cls.__qualname__]
    root = Path(__file__).parents[2]
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        [*command, folder, *names], cwd=root, capture_output=True, text=True, check=False
    )
    require(done.returncode == 0, f"loading in a fresh process failed: {done.stderr[-2000:]}")


def tampering_refused(subject: Subject, name: str) -> None:
    """Require that files with a flipped bit, or without one of them, are not loaded."""
    files = artefact.pack(subject.quick(name).to_files())
    for file in (DESCRIPTION, WEIGHTS):
        content = bytearray(files[file])
        content[-1] ^= 1
        with refused(ArtefactError, f"altered {file}", file):
            artefact.unpack({**files, file: bytes(content)}, "model")
        with refused(ArtefactError, f"missing {file}", file):
            artefact.unpack({n: c for n, c in files.items() if n != file}, "model")


def every_tensor_needed(subject: Subject, name: str) -> None:
    """Require that weights that lack a tensor are refused instead of made up."""
    files = subject.quick(name).to_files()
    description = msgspec.json.decode(files[DESCRIPTION], type=Description)
    weights = safetensors.torch.load(files[WEIGHTS])
    for gone in weights:
        rest = {n: t for n, t in weights.items() if n != gone}
        with refused(ArtefactError, f"weights without {gone}", subject.cls.caps.name):
            subject.new().restore(description, safetensors.torch.save(rest))


def bounded_state(subject: Subject, name: str) -> None:
    """Require that twice as many windows do not make a larger model."""
    fields = {field.name for field in msgspec.structs.fields(subject.cls.Config)}
    bound: dict[str, Any] = {"memory": MANY // 10} if "memory" in fields else {}
    fits = [subject.fit(small(name, windows=n), **bound) for n in (MANY, 2 * MANY)]
    sizes = [len(detector.to_files()[WEIGHTS]) for detector in fits]
    grown = f"{MANY} windows: {sizes[0]} bytes, {2 * MANY} windows: {sizes[1]} bytes"
    require(sizes[1] <= 1.05 * sizes[0], grown)


def incremental(subject: Subject, name: str) -> None:
    """Require that updates work where promised, repeat, are stored, and are refused elsewhere."""
    data, other = small(name), small(name, seed=5)
    detector = subject.fit(data)
    if subject.cls.caps.partial_fit == "none":
        with refused(DataError, "partial_fit", subject.cls.caps.name):
            detector.partial_fit(other)
        return
    labels, before = subject.labels(len(other)), detector.to_files()
    detector.partial_fit(other, labels, budget=QUICK)
    files, scores = detector.to_files(), detector.score(data).score
    require(files[WEIGHTS] != before[WEIGHTS], "partial_fit changed nothing")
    require(scores.isfinite().all(), "infinite scores after partial_fit")
    twin = subject.fit(data).partial_fit(other, labels, budget=QUICK)
    require(twin.to_files() == files, "the same update gives another state")
    description = msgspec.json.decode(files[DESCRIPTION], type=Description)
    loaded = subject.new().restore(description, files[WEIGHTS])
    require_close(loaded.score(data).score, scores, "updated and loaded")
    loaded.partial_fit(data, labels, budget=QUICK)
    detector.partial_fit(data, labels, budget=QUICK)
    same = loaded.to_files()[WEIGHTS] == detector.to_files()[WEIGHTS]
    require(same, "a loaded detector continues differently from the one that was saved")
