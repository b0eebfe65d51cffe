"""Requests for new models; those that partitions make for the same cause have the same id."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from agents.encode import from_log
from agents.watch import Finding
from detectors.model import Model
from schemas.messages import RetrainRequest, Trigger


def drift_request(
    stream: str,
    route: str,
    model: Model,
    finding: Finding,
    time: int,
    data_from: int,
    logs: Collection[str] = (),
) -> RetrainRequest:
    """Ask for a model after a confirmed drift; the level of ``logs`` is told without logarithm."""
    before, now = finding.reference, finding.statistic
    if finding.signal in logs:
        before, now = from_log(before), from_log(now)
    return RetrainRequest(
        request_id=_id(stream, route, model.model_id, "drift"),
        stream=stream,
        route=route,
        reason="drift",
        detail=f"{finding.signal} moved from {before:.6g} to {now:.6g}",
        statistic=finding.statistic,
        threshold=finding.reference,
        data_from=max(data_from, model.description.data_from),
        data_to=time,
        changed_at=finding.changed_at,
        model_id=model.model_id,
        requested_at=time,
    )


def update_request(
    stream: str, route: str, model: Model, windows: int, time: int
) -> RetrainRequest:
    """Ask that a model learn from the windows that have come since it was made."""
    return RetrainRequest(
        request_id=_id(stream, route, model.model_id, "age"),
        stream=stream,
        route=route,
        reason="age",
        detail=f"it has scored {windows} windows of a partition",
        data_from=model.description.data_to,
        data_to=time,
        model_id=model.model_id,
        requested_at=time,
    )


def missing_request(stream: str, route: str, data_from: int, time: int) -> RetrainRequest:
    """Ask for a first model."""
    return RetrainRequest(
        request_id=_id(stream, route, None, "missing"),
        stream=stream,
        route=route,
        reason="missing",
        detail="windows arrive and no model has been fitted",
        data_from=data_from,
        data_to=time,
        model_id=None,
        requested_at=time,
    )


def _id(stream: str, route: str, model_id: str | None, reason: Trigger) -> str:
    """Hash what makes two requests the same wish."""
    text = f"retrain\0{stream}\0{route}\0{model_id}\0{reason}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
