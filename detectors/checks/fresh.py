"""Score saved detectors in a process that has seen nothing but their files.

``python -m detectors.checks.fresh MODULE CLASS FOLDER INPUT...`` reads ``FOLDER/INPUT`` and writes
``FOLDER/INPUT.scores``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch

from detectors import artefact
from detectors.checks.subject import small, tensors
from detectors.detector import DESCRIPTION, WEIGHTS, Description, Detector


def main(module: str, qualname: str, folder: str, *names: str) -> None:
    """Restore each detector and write its scores."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    cls: type[Detector] = found
    for name in names:
        files = artefact.read(Path(folder, name))
        description = msgspec.json.decode(files[DESCRIPTION], type=Description)
        settings = msgspec.json.decode(description.config)
        detector = cls(seed=description.seed, **settings).restore(description, files[WEIGHTS])
        scores = tensors(detector.score(small(name, seed=2), explain="full"))
        contiguous = {part: found.contiguous().clone() for part, found in scores.items()}
        safetensors.torch.save_file(contiguous, Path(folder, f"{name}.scores"))


if __name__ == "__main__":
    main(*sys.argv[1:])
