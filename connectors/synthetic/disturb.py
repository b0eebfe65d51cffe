"""How a session of log lines goes wrong."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.synthetic.base import Kind
from connectors.synthetic.workflows import ERRORS, Workflow

__all__ = ["Disturbed", "disturb"]

LEAST_REPEATS, MOST_REPEATS = 20, 32


class Disturbed(NamedTuple):
    """An anomalous session: what it is called, its templates, and which lines are labelled.

    ``rushed`` lines follow each other quickly.
    """

    name: str
    templates: NDArray[np.int64]
    marked: NDArray[np.bool_]
    rushed: bool = False


def disturb(
    rng: np.random.Generator, kind: Kind, turn: int, workflow: Workflow, usual: NDArray[np.int64]
) -> Disturbed:
    """Disturb the usual templates of a session; ``turn`` counts the episodes of the kind."""
    if kind == "point":
        return _unknown_error(rng, workflow, usual)
    if kind == "group":
        return _retry_storm(rng, workflow, usual)
    return (_wrong_order if turn % 2 else _missing_step)(workflow, usual)


def _unknown_error(
    rng: np.random.Generator, workflow: Workflow, usual: NDArray[np.int64]
) -> Disturbed:
    at = int(rng.integers(len(workflow.head), len(usual) - len(workflow.tail) + 1))
    templates = np.insert(usual, at, rng.choice(ERRORS))
    return Disturbed("unknown_error", templates, _mark(templates, [at]))


def _missing_step(workflow: Workflow, usual: NDArray[np.int64]) -> Disturbed:
    """Leave out the second and the last step of the head; the lines that follow are labelled."""
    last = len(workflow.head) - 1
    templates = np.delete(usual, [1, last])
    return Disturbed("missing_step", templates, _mark(templates, [1, last - 1]))


def _wrong_order(workflow: Workflow, usual: NDArray[np.int64]) -> Disturbed:
    """Conclude the work before it is begun: two steps of the tail come after the second line."""
    moved = np.arange(2) + len(usual) - len(workflow.tail)
    templates = np.insert(np.delete(usual, moved), [2, 2], usual[moved])
    return Disturbed("wrong_order", templates, _mark(templates, [2, 3]))


def _retry_storm(
    rng: np.random.Generator, workflow: Workflow, usual: NDArray[np.int64]
) -> Disturbed:
    at = len(workflow.head)
    repeats = int(rng.integers(LEAST_REPEATS, MOST_REPEATS + 1))
    templates = np.insert(usual, at, np.full(repeats, workflow.loop[0]))
    marked = _mark(templates, list(range(at, at + repeats)))
    return Disturbed("retry_storm", templates, marked, rushed=True)


def _mark(templates: NDArray[np.int64], places: list[int]) -> NDArray[np.bool_]:
    return np.isin(np.arange(len(templates)), places)
