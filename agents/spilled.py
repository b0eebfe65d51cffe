"""Spilled keys on the storage: checkpoints hold the names of segments instead of the files.

A file that an earlier checkpoint brought there is not written again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agents.snapshot import State
from connectors.checkpoints import Checkpoints, Place
from connectors.segments import Segment
from connectors.spill import SpillCopy, SpillSpace
from schemas.errors import DataError

__all__ = ["put_spill", "take_spill"]


def put_spill(
    files: Checkpoints, place: Place, generation: int, copy: SpillCopy
) -> tuple[State, list[str]]:
    """Bring a copy to the storage; return what stands for it in a state, and the segments.

    Raises
    ------
    SetupError
        If the storage does not take it.
    """
    folder = files.folder(place)
    there = files.names(place)
    segments: dict[str, Segment] = {}
    for path in copy.immutable:
        segment = copy.stored.get(path.name)
        if segment is None or segment.name not in there:
            segment = files.segments.write(folder, generation, path.read_bytes())
            copy.stored[path.name] = segment
        segments[path.name] = segment
    others = {x.name: np.frombuffer(x.read_bytes(), dtype=np.uint8) for x in copy.others}
    named: State = {name: list(segment) for name, segment in segments.items()}
    return {"segments": named, "others": others}, [s.name for s in segments.values()]


def take_spill(files: Checkpoints, place: Place, state: State, space: SpillSpace) -> SpillCopy:
    """Bring back what :func:`put_spill` brought there.

    Raises
    ------
    DataError
        If a segment is missing or was altered.
    SetupError
        If the storage cannot be reached, or the local disk does not take it.
    """
    stored = {name: Segment(*segment) for name, segment in state["segments"].items()}
    for name in [*stored, *state["others"]]:
        if Path(name).name != name:
            msg = f"checkpoint: {name!r} is no name of a file of a spill"
            raise DataError(msg)
    copy = SpillCopy(space, stored)
    for name, segment in stored.items():
        copy.add(name, files.segments.read(files.folder(place), segment))
    for name, data in state["others"].items():
        copy.add(name, data.tobytes())
    return copy
