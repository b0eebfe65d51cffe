"""What a detector refuses to learn from, by its capabilities."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities, Kind
from schemas.errors import DataError, LabelsError

UNLABELLED = -1


def require_fittable(caps: Capabilities, batch: WindowBatch) -> None:
    """Raise :class:`DataError` where there are no windows, or of a kind that is not taken."""
    name = caps.name
    if len(batch) == 0:
        msg = f"{name}: no windows to fit on; give it at least one"
        raise DataError(msg)
    if torch.isinf(batch.num).any():
        feature = int(torch.isinf(batch.num).any(dim=0).any(dim=0).nonzero()[0])
        msg = f"{name}: feature {feature} holds infinite values; clip or drop those records"
        raise DataError(msg)
    if batch.fields < caps.min_fields:
        msg = (
            f"{name}: relates category fields and needs at least {caps.min_fields}, got "
            f"{batch.fields}; add one, or choose another detector"
        )
        raise DataError(msg)
    if not _kinds_of(caps, batch):
        msg = (
            f"{name}: takes {', '.join(caps.kinds)}; got {batch.features} numbers and "
            f"{batch.fields} categories over {batch.steps} steps; choose another detector"
        )
        raise DataError(msg)


def _kinds_of(caps: Capabilities, batch: WindowBatch) -> set[Kind]:
    """As which of the kinds that a detector takes windows can be read."""
    kinds, taken = caps.kinds, set[Kind]()
    if batch.features and "record" in kinds:
        taken.add("record")
    if batch.features and batch.steps > 1 and "series" in kinds:
        taken.add("series")
    if batch.fields and not batch.features:
        taken.update(kind for kind in kinds if kind in ("events", "catrec"))
    if batch.steps > 1 and "bag" in kinds:
        taken.add("bag")
    if batch.fields and "graphwin" in kinds:
        taken.add("graphwin")
    mixed = "record" in kinds or "events" in kinds or caps.attributes
    if batch.fields and batch.features and mixed:
        taken.add("record")
    return taken


def as_marks(caps: Capabilities, count: int, labels: ArrayLike | None, least: int) -> Tensor:
    """Labels ``[count]`` as int8, all ``UNLABELLED`` where none are given.

    Raises
    ------
    LabelsError
        If they are not ``count`` values of 1, 0 and -1, or hold fewer than ``least`` anomalies, or
        (with ``least``) nothing else.
    """
    array = np.full(count, UNLABELLED) if labels is None else np.asarray(labels)
    if array.shape != (count,) or not np.isin(array, (-1, 0, 1)).all():
        msg = (
            f"{caps.name}: labels must be {count} values of 1 (anomaly), 0 (normal) or -1 "
            f"(unlabelled), got shape {array.shape}"
        )
        raise LabelsError(msg)
    anomalies = int((array == 1).sum())
    if anomalies < least:
        msg = (
            f"{caps.name}: learns from labelled anomalies and needs at least {least}, "
            f"got {anomalies}; label some, or use a detector without labels"
        )
        raise LabelsError(msg)
    if least and anomalies == count:
        msg = (
            f"{caps.name}: every window is a labelled anomaly; add windows that are not, or "
            "nothing can be told apart"
        )
        raise LabelsError(msg)
    return torch.from_numpy(array.astype(np.int8))
