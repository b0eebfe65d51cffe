"""Tables of cells: mean and spread over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from agents.bench.accuracy.cells import Cell


def report(cells: Iterable[Cell]) -> str:
    """Return a Markdown table for each suite, the best method first.

    By VUS-PR for series, by average precision elsewhere.
    """
    by_suite: dict[str, list[Cell]] = defaultdict(list)
    for found in cells:
        by_suite[found.suite].append(found)
    return "\n\n".join(_suite(name, found) for name, found in by_suite.items())


def _suite(name: str, cells: list[Cell]) -> str:
    tasks = list(dict.fromkeys(found.task for found in cells))
    rows: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for found in cells:
        rows[found.method][found.task].append(found)
    mean = {method: _mean(row, tasks) for method, row in rows.items()}
    head = "VUS-PR (event F1)" if name == "series" else "average precision (ROC AUC)"
    lines = [
        f"| {name}: {head} | mean | {' | '.join(tasks)} | fit s | score/s |",
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


def _mean(row: dict[str, list[Cell]], tasks: list[str]) -> float:
    """Mean over the data sets; one without a measure counts as 0."""
    parts = [[headline(x) for x in row[task]] or [0.0] for task in tasks]
    return float(np.mean([np.mean(part) for part in parts]))


def _text(cells: list[Cell]) -> str:
    done = [found for found in cells if not found.failure]
    if not done:
        return cells[0].failure[:40] if cells else "–"
    values = [headline(found) for found in done]
    second = [found.roc_auc if found.event_f1 is None else found.event_f1 for found in done]
    return f"{np.mean(values):.3f} ± {np.std(values):.3f} ({np.mean(second):.3f})"
