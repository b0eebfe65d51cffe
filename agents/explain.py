"""explain: which fields and steps made a window an anomaly, and what was expected of them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from agents.window import Windows
from detectors.model import MISSING, Explanation, Layout, feature_columns
from schemas.messages import Contribution

TOP = 5
LEAST_SHARE = 0.02
REDACTED = "(redacted)"


def contributions(
    layout: Layout,
    windows: Windows,
    explanation: Explanation,
    sensitive: Collection[str] = (),
) -> list[list[Contribution]]:
    """Name the largest contributions to each of ``W`` explained windows, largest first."""
    names = feature_columns(layout)
    numbers = len(layout.numbers)
    share = explanation.share
    steps, width = share.shape[1:]
    flat = share.reshape(len(share), -1)
    best = np.argsort(-flat, axis=1, kind="stable")[:, :TOP]
    result = []
    for window, columns in enumerate(best.tolist()):
        found = []
        for column in columns:
            step, feature = divmod(column, width)
            part = float(flat[window, column])
            if part < LEAST_SHARE or step >= steps:
                continue
            name = names[feature]
            observed: float | str | None = None
            expected = None
            if feature < numbers:
                value = float(windows.num[window, step, feature])
                observed = None if np.isnan(value) else round(value, 6)
                if explanation.expected is not None:
                    expected = round(float(explanation.expected[window, step, feature]), 6)
            if name in sensitive:
                observed, expected = REDACTED, None
            found.append(
                Contribution(
                    field=name,
                    step=step,
                    share=round(part, 4),
                    observed=observed,
                    expected=expected,
                )
            )
        result.append(found)
    return result


def sentence(tops: list[Contribution]) -> str:
    """Say the main contributions in words."""
    if not tops:
        return "an unusual window"
    totals: dict[str, float] = {}
    for top in tops:
        totals[top.field] = totals.get(top.field, 0.0) + top.share
    field = max(totals, key=lambda name: totals[name])
    top = next(t for t in tops if t.field == field)
    if field == MISSING:
        return "values are missing that are usually there"
    text = f"unusual {field}"
    if top.observed is not None and top.observed != REDACTED:
        text += f" (observed {top.observed:.6g}" if isinstance(top.observed, float) else ""
        if isinstance(top.observed, float):
            text += f", expected {top.expected:.6g})" if top.expected is not None else ")"
    return text
