"""Tables of cells: mean and spread over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import numpy as np

from agents.bench.accuracy.cells import Cell
from detectors import CATALOGUE, detector_class


def report(cells: Iterable[Cell]) -> str:
    """Return a Markdown table for each suite, the best method first.

    By VUS-PR for series, by average precision elsewhere.
    """
    return "\n\n".join(_suite(name, found) for name, found in by_suite(cells).items())


def condensed(cells: Iterable[Cell]) -> str:
    """Return a Markdown table of the best of each sort in each suite.

    Sorts are detectors that train a network, those that do not, and peers; the best is that of the
    highest mean over the data sets of the suite.
    """
    lines = ["| data | measure | best deep | best classical | best peer |", "|---|---|---|---|---|"]
    for name, found in by_suite(cells).items():
        mean = means(found)
        best = {}
        for method in sorted(mean, key=lambda method: mean[method]):
            best[sort_of(method)] = f"`{method}` {mean[method]:.3f}"
        texts = [best.get(sort, "–") for sort in ("deep", "classical", "peer")]
        sets = ", ".join(dict.fromkeys(one.task for one in found))
        lines.append(f"| {name}: {sets} | {_measure(name)} | {' | '.join(texts)} |")
    return "\n".join(lines)


def by_suite(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Group cells; suites in the order of their first cells."""
    found_in: dict[str, list[Cell]] = defaultdict(list)
    for found in cells:
        found_in[found.suite].append(found)
    return found_in


def sort_of(method: str) -> Literal["deep", "classical", "peer"]:
    """Whether a method trains a network, does not, or is none of Eddy's."""
    if method not in CATALOGUE:
        return "peer"
    return "classical" if detector_class(method).caps.loop == "statistics" else "deep"


def _measure(suite: str) -> str:
    return "VUS-PR" if suite == "series" else "average precision"


def _rows(cells: Iterable[Cell]) -> dict[str, dict[str, list[Cell]]]:
    """Cells by method and data set."""
    rows: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for found in cells:
        rows[found.method][found.task].append(found)
    return rows


def means(cells: Iterable[Cell]) -> dict[str, float]:
    """Mean of each method over the data sets; one without a measure counts as 0."""
    rows = _rows(cells)
    tasks = {task for row in rows.values() for task in row}
    return {
        method: float(
            np.mean([np.mean([headline(x) for x in row[task]] or [0.0]) for task in tasks])
        )
        for method, row in rows.items()
    }


def _suite(name: str, cells: list[Cell]) -> str:
    tasks = list(dict.fromkeys(found.task for found in cells))
    rows, mean = _rows(cells), means(cells)
    second = "event F1" if name == "series" else "ROC AUC"
    lines = [
        f"| {name}: {_measure(name)} ({second}) | mean | {' | '.join(tasks)} | fit s | score/s |",
        "|---" * (len(tasks) + 4) + "|",
    ]
    for method in sorted(rows, key=lambda method: -mean[method]):
        row = rows[method]
        done = [found for part in row.values() for found in part if not found.failure]
        fit = f"{np.mean([x.fit_seconds for x in done]):.1f}" if done else "–"
        rate = [x.tested / max(x.score_seconds, 1e-9) for x in done]
        speed = f"{np.median(rate):,.0f}" if done else "–"
        texts = [_text(row[task]) for task in tasks]
        lines.append(f"| `{method}` | {mean[method]:.3f} | {' | '.join(texts)} | {fit} | {speed} |")
    return "\n".join(lines)


def headline(found: Cell) -> float:
    """Return the measure that methods are ranked by."""
    return found.average_precision if found.vus_pr is None else found.vus_pr


def _text(cells: list[Cell]) -> str:
    done = [found for found in cells if not found.failure]
    if not done:
        return cells[0].failure[:40] if cells else "–"
    values = [headline(found) for found in done]
    second = [found.roc_auc if found.event_f1 is None else found.event_f1 for found in done]
    return f"{np.mean(values):.3f} ± {np.std(values):.3f} ({np.mean(second):.3f})"
