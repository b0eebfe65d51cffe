"""Fitting models from records: the same decode, encode and window steps that serve them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.archiving import Quarantine
from agents.encode import Encoder, feature_names
from agents.keys import KeyTable, group
from agents.labels import window_labels
from agents.layout import route_layout
from agents.records import Records
from agents.templates import mine
from agents.window import Windows, make_windower
from connectors.base import Partition
from detectors import Budget
from detectors.model import Model
from detectors.windows import WindowArrays
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
    quarantine: Quarantine | None = None,
) -> History:
    """Make windows of records that are held in memory.

    Parameters
    ----------
    records
        Decoded records, those of a partition in offset order.
    templates
        Log templates to keep; more are mined from the records.
    quarantine
        The windows that were judged anomalous while serving.
    """
    if stream.of_type("text"):
        lines = (line for part in records for column in part.texts for line in column)
        templates = tuple(sorted({*templates, *mine(lines)}))
    numbers, categories = feature_names(stream)
    made: list[tuple[Partition, Windows, NDArray[np.int8]]] = []
    by_partition: dict[object, list[int]] = {}
    for index, part in enumerate(records):
        by_partition.setdefault(part.partition, []).append(index)
    for indices in by_partition.values():
        encoder, keys = Encoder(stream), KeyTable()
        encoder.use_templates(templates)
        # windows as they are in the end, however often they were revised while serving
        windower = make_windower(stream, len(numbers), len(categories), final=True)
        for index in indices:
            part = records[index]
            slots = np.zeros(len(part), dtype=np.int64)
            if stream.key != "none":
                slots = keys.assign(part.key)
            groups = group(slots)
            added = windower.add(part, encoder(part, groups), groups)
            made.append((part.partition, added.windows, window_labels(added.windows, [part])))
        rest = windower.finish()
        made.append((records[indices[0]].partition, rest, np.full(len(rest), -1, np.int8)))
    labelled = [p for p in records if p.labels is not None]
    if labelled and made and made[0][1].row is None:
        # windows of spans and sessions hold records of several fetches
        made = [(p, w, window_labels(w, labelled)) for p, w, _ in made]
    made = [item for item in made if len(item[1])]
    quarantine = quarantine or Quarantine()
    return History(
        _join([windows for _, windows, _ in made], stream),
        np.concatenate([labels for _, _, labels in made]),
        np.concatenate([quarantine.holds(p, windows) for p, windows, _ in made]),
        templates,
    )


def _join(windows: list[Windows], stream: Stream) -> WindowArrays:
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


def update_route(model: Model, history: History, *, budget: Budget | None = None) -> Model:
    """Let a model learn from the windows newer than it, without those judged anomalous."""
    newer = history.windows.time > model.description.data_to
    keep = newer & (~history.suspect | (history.labels == 0))
    return model.updated(history.windows[keep], labels=history.labels[keep], budget=budget)


def fit_route(
    name: str,
    stream: Stream,
    route: Route,
    history: History,
    *,
    parent_id: str | None = None,
    changed_at: int | None = None,
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
        changed_at=changed_at,
        seed=seed,
        device=device,
        budget=budget,
    )
