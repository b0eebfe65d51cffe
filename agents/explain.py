"""explain: which fields and steps made a window an anomaly, and what was expected of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from agents.encode import from_log
from agents.records import Records
from agents.window import Windows
from detectors.model import Explanation
from detectors.windows import MISSING, Layout, feature_columns
from schemas.messages import Contribution

TOP = 5
LEAST_SHARE = 0.02
REDACTED = "(redacted)"
UNSEEN = "(not seen at fit)"


@dataclass(frozen=True, slots=True)
class Why:
    """Why a window is an anomaly.

    Attributes
    ----------
    top
        The largest contributions, largest first.
    causes
        The same without the circumstances: which number went which way, or which value was odd,
        and its share. Windows of different keys have a cause in common or not.
    """

    top: list[Contribution]
    causes: dict[str, float]


def reasons(
    layout: Layout,
    windows: Windows,
    explanation: Explanation,
    *,
    records: Records | None = None,
    fields: Collection[str] = (),
    templates: Mapping[int, str] | None = None,
    logs: Collection[str] = (),
    sensitive: Collection[str] = (),
) -> list[Why]:
    """Say of each of ``W`` explained windows why it is odd.

    Parameters
    ----------
    records, fields
        The records that the windows end with, and the names of their category columns, from which
        the odd value is quoted; windows of spans and sessions have none.
    templates
        The model's log templates by their codes.
    logs
        Features that are logarithms: they are told in the units of the records.
    sensitive
        Fields whose values must not be told.
    """
    names = feature_columns(layout)
    share = explanation.share
    steps, width = share.shape[1:]
    flat = share.reshape(len(share), -1)
    best = np.argsort(-flat, axis=1, kind="stable")[:, :TOP]
    quotes = _Quotes(layout, windows, records, list(fields), templates or {})
    result = []
    for window, columns in enumerate(best.tolist()):
        why = Why([], {})
        for column in columns:
            step, feature = divmod(column, width)
            part = float(flat[window, column])
            if part < LEAST_SHARE or step >= steps:
                continue
            name = names[feature]
            observed, cause = quotes(window, step, feature, name)
            expected = None
            if feature < len(layout.numbers) and explanation.expected is not None:
                expected = float(explanation.expected[window, step, feature])
                if isinstance(observed, float):
                    # rounded: an expectation repeats no better when batches are cut otherwise
                    cause += ">" if round(observed, 6) > round(expected, 6) else "<"
            told = from_log if name in logs else _rounded
            observed = told(observed) if isinstance(observed, float) else observed
            expected = None if expected is None else told(expected)
            if name in sensitive:
                observed = expected = None
            why.top.append(
                Contribution(
                    field=name,
                    step=step,
                    share=round(part, 4),
                    observed=REDACTED if name in sensitive else observed,
                    expected=expected,
                )
            )
            why.causes[cause] = why.causes.get(cause, 0.0) + part
        result.append(why)
    return result


class _Quotes:
    """Looks up what stood in a window, and names what that may have in common with others."""

    def __init__(
        self,
        layout: Layout,
        windows: Windows,
        records: Records | None,
        fields: list[str],
        templates: Mapping[int, str],
    ) -> None:
        self._layout, self._windows = layout, windows
        self._records, self._fields, self._templates = records, fields, templates
        self._first = len(feature_columns(layout)) - len(layout.categories)

    def __call__(
        self, window: int, step: int, feature: int, name: str
    ) -> tuple[float | str | None, str]:
        if feature < len(self._layout.numbers):
            value = float(self._windows.num[window, step, feature])
            return (None if np.isnan(value) else value), name
        if name == MISSING:
            return None, name
        code = int(self._windows.cat[window, step, feature - self._first])
        cause = f"{name}={code}"
        if name not in self._fields:
            return self._templates.get(code, UNSEEN), cause
        last = step == self._windows.length[window] - 1
        if self._records is None or self._windows.row is None or not last:
            return None, cause
        column = self._records.categories[self._fields.index(name)]
        return column[int(self._windows.row[window])], cause


def _rounded(value: float) -> float:
    return round(value, 6)


def sentence(tops: list[Contribution]) -> str:
    """Say the main contribution in words."""
    if not tops:
        return "an unusual window"
    totals: dict[str, float] = {}
    for top in tops:
        totals[top.field] = totals.get(top.field, 0.0) + top.share
    field = max(totals, key=lambda name: totals[name])
    if field == MISSING:
        return "values are missing that are usually there"
    told = [t for t in tops if t.field == field and t.observed is not None]
    if not told:
        return f"unusual {field}"
    top = told[0]
    if top.observed in (UNSEEN, REDACTED):
        return f"unusual {field} {top.observed}"
    if isinstance(top.observed, str):
        return f"unusual {field} {top.observed!r}"
    text = f"unusual {field} (observed {top.observed:.6g}"
    return text + (")" if top.expected is None else f", expected {top.expected:.6g})")
