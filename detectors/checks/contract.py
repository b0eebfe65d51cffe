"""Checks of what a detector says about itself: documentation, settings, labels."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np
import torch

from detectors.checks.subject import QUICK, Subject, refused, require, small
from detectors.detector import Detector
from schemas.errors import DataError, LabelsError


def documented(subject: Subject, name: str) -> None:
    """Require a docstring with source, survey section, and every setting."""
    cls = subject.cls
    text = cls.__doc__ or ""
    require(re.search(r"\b(19|20)\d\d\b", text), "docstring: no source with its year")
    require("urvey" in text, "docstring: does not place the method in the survey")
    require("[B, T" in text or "``T``" in text or "x_T" in text, "docstring: no shapes")
    settings = [field.name for field in msgspec.structs.fields(cls.Config)]
    known = text + " ".join(base.__doc__ or "" for base in cls.Config.__mro__)
    missing = [setting for setting in settings if not re.search(rf"\b{setting}\b", known)]
    require(not missing, f"docstring: says nothing of {', '.join(missing)}")


def capabilities_stated(subject: Subject, name: str) -> None:
    """Require capabilities that can be: kinds, sources, and reasons for waived checks."""
    caps = subject.cls.caps
    require(caps.kinds, "caps: no kinds")
    require(caps.sources, "caps: no source that it can tell apart")
    require(caps.min_labels == 0 or caps.uses_labels, "caps: needs labels that it does not use")
    unexplained = [check for check, reason in caps.waived.items() if len(reason) < 10]
    require(not unexplained, f"caps: no reason for waiving {', '.join(unexplained)}")


def settings_validated(subject: Subject, name: str) -> None:
    """Require defaults for all settings, frozen, and refusals that name what is wrong."""
    cls, label = subject.cls, subject.cls.caps.name
    config: Any = subject.new().config
    for field in msgspec.structs.fields(cls.Config):
        default = field.default is not msgspec.NODEFAULT
        default |= field.default_factory is not msgspec.NODEFAULT
        require(default, f"setting {field.name}: no default")
        with refused(DataError, f"{field.name}={{}}", label, field.name):
            wrong: dict[str, Any] = {field.name: {"not": "a value"}}
            subject.new(**wrong)
        with refused(AttributeError, f"writing to the setting {field.name}"):
            setattr(config, field.name, getattr(config, field.name))
    with refused(DataError, "an unknown setting", label, "sizzle"):
        subject.new(sizzle=3)
    stored = msgspec.json.decode(msgspec.json.encode(config), type=cls.Config)
    require(stored == config, f"settings read back as {stored}")


def fit_reported(subject: Subject, name: str) -> None:
    """Require a report of each fit and update: windows, time, losses where anything is trained."""
    data, caps = small(name), subject.cls.caps
    detector, total = subject.fit(data), len(data)
    _require_report(detector, total)
    detector.fit(data, subject.labels(total), budget=QUICK)
    _require_report(detector, total)
    if caps.partial_fit != "none":
        detector.partial_fit(data[:7], subject.labels(7), budget=QUICK)
        _require_report(detector, total + 7)


def _require_report(detector: Detector, windows: int) -> None:
    report, trained = detector.report, detector.caps.loop != "statistics"
    require(report.windows == windows, f"report: {report.windows} windows of {windows}")
    require(report.seconds > 0, f"report: took {report.seconds} s")
    require(bool(report.losses) == trained, f"report: losses {report.losses}")
    require((report.stopped != "closed form") == trained, f"report: stopped by {report.stopped!r}")


def labels_honest(subject: Subject, name: str) -> None:
    """Require that labels change nothing where unused, and that too few are refused where used."""
    data, caps = small(name), subject.cls.caps
    marks = np.zeros(len(data), dtype=np.int64)
    marks[::3] = 1
    if not caps.uses_labels:
        plain = subject.new().fit(data, budget=QUICK).score(data).score
        labelled = subject.new().fit(data, marks, budget=QUICK).score(data).score
        require(torch.equal(plain, labelled), "declared not to use labels, but they matter")
        return
    if caps.min_labels:
        few = np.full(len(data), -1)
        few[: caps.min_labels - 1] = 1
        for labels in (None, few):
            with refused(LabelsError, "too few labels", caps.name, str(caps.min_labels)):
                subject.new().fit(data, labels, budget=QUICK)
        with refused(LabelsError, "anomalies only", caps.name, "every window"):
            subject.new().fit(data, np.ones(len(data)), budget=QUICK)
    for labels in (marks[:-1], marks * 3, marks.reshape(-1, 1)):
        with refused(LabelsError, "labels of another form", caps.name):
            subject.new().fit(data, labels, budget=QUICK)
