"""What should have been published: the records of each partition through a pipeline, undisturbed.

At which record a new model took over is decided while the workers run. It is read off the events
that they published, and the new model must then speak for all that follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agents.pipeline import Pipeline
from connectors.base import Fetch, flatten
from detectors.model import Model
from schemas.messages import Account, ScoredEvent
from tests.chaos.published import Published
from tests.chaos.setting import STREAM, Setting

CHUNK = 512


def expect(
    setting: Setting, inputs: Mapping[int, Fetch], models: Sequence[Model], seen: Published
) -> Published:
    """Compute what an undisturbed run publishes.

    Parameters
    ----------
    inputs
        The records of each partition.
    models
        The first model, and those announced while the workers ran, in order.
    seen
        What was published; only which model each event names is looked at.
    """
    spoke: dict[str, str] = {event.event_id: event.model_id for event in seen.scored}
    expected = Published()
    for fetch in inputs.values():
        found = _Run(setting, fetch).through([(0, models[0])])
        changes = _changes(found.scored, models, spoke)
        if changes:
            found = _Run(setting, fetch).through([(0, models[0]), *changes])
        expected.scored += found.scored
        expected.letters += found.letters
        expected.incidents += found.incidents
        expected.accounts += found.accounts
        expected.requests += found.requests
    return expected


def _changes(
    events: Sequence[ScoredEvent], models: Sequence[Model], spoke: Mapping[str, str]
) -> list[tuple[int, Model]]:
    """Return before which event each later model took over; there is no way back."""
    order = {model.model_id: index for index, model in enumerate(models)}
    now, changes = 0, []
    for index, event in enumerate(events):
        found = order.get(spoke.get(event.event_id, ""), 0)
        if found > now:
            now = found
            changes.append((index, models[found]))
    return changes


class _Run:
    """The records of one partition on their way through a pipeline of its own."""

    def __init__(self, setting: Setting, fetch: Fetch) -> None:
        self._setting, self._fetch = setting, fetch
        self._pipeline = Pipeline(setting.config, lambda: 0)
        self._at = 0
        self.out = Published()

    def through(self, models: Sequence[tuple[int, Model]]) -> Published:
        """Let each model speak from so many events on, and process everything."""
        for events, model in models:
            self._advance(events)
            self._pipeline.apply(STREAM, self._setting.route, model)
        while self._at < len(self._fetch):
            self._process(CHUNK)
        self.out.accounts = list[Account](self._pipeline.accounts())
        return self.out

    def _advance(self, events: int) -> None:
        """Process records until so many events have been scored, no record further."""
        while len(self.out.scored) < events:
            # a record makes few windows, and so this stops short of the goal
            left = events - len(self.out.scored)
            self._process(max(1, min(CHUNK, left // 32)))

    def _process(self, count: int) -> None:
        part = self._fetch[self._at : self._at + count]
        self._at += count
        # among the records are numbers beyond float32
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = self._pipeline.process([part]).outputs
        for output in flatten(outputs):
            self.out.add(self._setting.topics, output)
