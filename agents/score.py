"""score: the windows of all partitions that wait for the same model go through it in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agents.records import Floats
from agents.templates import code_of
from agents.window import Windows
from detectors.model import Model
from detectors.windows import WindowArrays
from schemas.config import Route, Stream


def matching(windows: Windows, stream: Stream, route: Route) -> Windows:
    """Pick the windows that a route's rules let through.

    A revision that no longer passes is retracted, since one before it may have passed.
    """
    if not route.when or not len(windows):
        return windows
    last = windows.cat[np.arange(len(windows)), windows.length - 1]
    fields = stream.of_type("category")
    keep = np.ones(len(windows), dtype=bool)
    for name, values in route.when.items():
        keep &= np.isin(last[:, fields.index(name)], [code_of(value) for value in values])
    if windows.revision is not None and windows.retracted is not None:
        again = windows.revision > 0
        windows = replace(windows, retracted=windows.retracted | (again & ~keep))
        keep |= again
    return windows.select(keep)


def arrays(windows: Windows) -> WindowArrays:
    """Return what a model needs of windows."""
    return WindowArrays(windows.num, windows.cat, windows.length, windows.end)


def score_by_model(models: Sequence[Model | None], parts: Sequence[Windows]) -> list[Floats | None]:
    """Score the windows of several partitions, in one call those that the same model speaks of."""
    scores: list[Floats | None] = [None] * len(parts)
    speaking = {model.model_id: model for model in models if model is not None}
    for name, model in speaking.items():
        rows = [i for i, m in enumerate(models) if m is not None and m.model_id == name]
        for row, part in zip(rows, _score(model, [parts[i] for i in rows]), strict=True):
            scores[row] = part
    return scores


def _score(model: Model, parts: list[Windows]) -> list[Floats]:
    if len(parts) == 1:
        return [model.score(arrays(parts[0]))]
    joined = WindowArrays(
        np.concatenate([p.num for p in parts]),
        np.concatenate([p.cat for p in parts]),
        np.concatenate([p.length for p in parts]),
        np.concatenate([p.end for p in parts]),
    )
    scores = model.score(joined)
    return np.split(scores, np.cumsum([len(p) for p in parts])[:-1])
