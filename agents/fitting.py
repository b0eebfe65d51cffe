"""Fitting models from records: the same decode, encode and window steps that serve them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.encode import Encoder, feature_names
from agents.keys import KeyTable, group
from agents.labels import window_labels
from agents.pipeline import route_layout
from agents.records import Records
from agents.templates import mine
from agents.window import Windows, make_windower
from detectors import Budget
from detectors.model import Model, WindowArrays
from schemas.config import Route, Stream
from schemas.errors import DataError

BATCH = 20_000


@dataclass(frozen=True, slots=True)
class History:
    """The windows of a stream's history, with their labels and the log templates."""

    windows: WindowArrays
    labels: NDArray[np.int8]
    suspect: NDArray[np.bool_]
    templates: tuple[str, ...]


def build_history(
    stream: Stream,
    records: Sequence[Records],
    *,
    templates: tuple[str, ...] = (),
    suspects: Sequence[NDArray[np.bool_]] | None = None,
) -> History:
    """Make windows of records that are held in memory.

    Parameters
    ----------
    records
        Decoded records, those of a partition in offset order.
    templates
        Log templates to keep; more are mined from the records.
    suspects
        For each of ``records`` which of its rows were judged anomalous while serving.
    """
    if stream.of_type("text"):
        lines = (line for part in records for column in part.texts for line in column)
        templates = tuple(sorted({*templates, *mine(lines)}))
    numbers, categories = feature_names(stream)
    parts: list[tuple[Windows, NDArray[np.int8], NDArray[np.bool_]]] = []
    by_partition: dict[object, list[int]] = {}
    for index, part in enumerate(records):
        by_partition.setdefault(part.partition, []).append(index)
    for indices in by_partition.values():
        encoder, keys = Encoder(stream), KeyTable()
        encoder.use_templates(templates)
        windower = make_windower(stream, len(numbers), len(categories))
        for index in indices:
            part = records[index]
            mark = np.zeros(len(part), dtype=bool) if suspects is None else suspects[index]
            slots = np.zeros(len(part), dtype=np.int64)
            if stream.key != "none":
                slots = keys.assign(part.key)
            groups = group(slots)
            added = windower.add(part, encoder(part, groups), groups)
            rows = added.windows.row
            suspect = np.zeros(len(added.windows), dtype=bool) if rows is None else mark[rows]
            parts.append((added.windows, window_labels(added.windows, [part]), suspect))
        rest = windower.finish()
        parts.append((rest, np.full(len(rest), -1, np.int8), np.zeros(len(rest), bool)))
    labelled = [p for p in records if p.labels is not None]
    if labelled and parts and parts[0][0].row is None:
        # windows of spans and sessions hold records of several fetches
        parts = [(w, window_labels(w, labelled), s) for w, _, s in parts]
    return History(
        _join([w for w, _, _ in parts if len(w)], stream, numbers, categories),
        np.concatenate([label for w, label, _ in parts if len(w)] or [np.zeros(0, np.int8)]),
        np.concatenate([s for w, _, s in parts if len(w)] or [np.zeros(0, bool)]),
        templates,
    )


def _join(
    windows: Iterable[Windows], stream: Stream, numbers: list[str], categories: list[str]
) -> WindowArrays:
    windows = list(windows)
    if not windows:
        msg = (
            "the history holds no complete window; give more of it, or shorten the window "
            f"({stream.window!r})"
        )
        raise DataError(msg)
    return WindowArrays(
        np.concatenate([w.num for w in windows]),
        np.concatenate([w.cat for w in windows]),
        np.concatenate([w.length for w in windows]),
        np.concatenate([w.end for w in windows]),
    )


def fit_route(
    name: str,
    stream: Stream,
    route: Route,
    history: History,
    *,
    parent_id: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    budget: Budget | None = None,
) -> Model:
    """Fit the model of a route; windows judged anomalous while serving teach it nothing."""
    keep = ~history.suspect | (history.labels == 0)
    return Model.fit(
        route_layout(name, stream, route),
        history.windows[keep],
        detector=route.detector,
        settings=route.settings,
        labels=history.labels[keep],
        templates=history.templates,
        parent_id=parent_id,
        seed=seed,
        device=device,
        budget=budget,
    )
