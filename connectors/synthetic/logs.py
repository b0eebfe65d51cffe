"""Log lines of jobs: raw text, keyed by session.

A session is a job: some 8 to 27 lines that follow one of four workflows, spread over a few minutes
and interleaved with the lines of other jobs. Episodes: an error that was never seen before; the
usual lines with steps missing or in the wrong place; a step repeated dozens of times. The drift
turns round how often each workflow runs, and a release brings a fifth one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.synthetic.base import KINDS, LAST_SHARE, Episode, Generated, Generator
from connectors.synthetic.disturb import MOST_REPEATS, disturb
from connectors.synthetic.rhythm import HOURS, MILLISECOND_NS, SECOND_NS, arrivals, bump
from connectors.synthetic.workflows import NEWER, TEMPLATES, WORKFLOWS

__all__ = ["PATTERN", "Logs"]

PATTERN = (
    r"^(?P<time>\S+) (?P<host>\S+) (?P<level>[A-Z]+) "
    r"(?P<component>[\w.-]+)\[(?P<session>[^\]\s]+)\]: (?P<message>.*)$"
)
"""Reads a line; ``time`` is ISO 8601 in UTC."""

SESSIONS_PER_HOST_AND_DAY = 200.0
PAUSE_NS = 15 * SECOND_NS  # mean time between lines of a session
LONGEST_PAUSE_NS = 120 * SECOND_NS  # so that no session seems to have ended
RUSHED_PAUSE_NS = SECOND_NS // 2

BLOCK = 1024  # sessions

PLAN, LINES, PARAMETERS, EPISODES = 1, 2, 3, 4  # purposes of random generators

# Every way in which a normal session can run, and how often each workflow does.
VARIANTS = list(product((*WORKFLOWS, NEWER), range(1, 7), (False, True)))
SEQUENCES = [
    np.array(workflow.lines(rounds, optional), np.int64) for workflow, rounds, optional in VARIANTS
]
LENGTHS = np.array([len(sequence) for sequence in SEQUENCES])
SHARES_BEFORE = (0.4, 0.3, 0.2, 0.1, 0.0)
SHARES_AFTER = (0.1, 0.1, 0.2, 0.25, 0.35)

SOURCES = [f"{template.level} {template.component}" for template in TEMPLATES]
MOST_PARAMETERS = max(len(template.bounds) for template in TEMPLATES)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines of some sessions, as equally long arrays."""

    time: NDArray[np.int64]
    session: NDArray[np.int64]
    template: NDArray[np.int64]
    episode: NDArray[np.int32]

    def take(self, rows: NDArray[Any]) -> _Lines:
        return _Lines(self.time[rows], self.session[rows], self.template[rows], self.episode[rows])

    @staticmethod
    def join(parts: list[_Lines]) -> _Lines:
        return _Lines(
            np.concatenate([part.time for part in parts]),
            np.concatenate([part.session for part in parts]),
            np.concatenate([part.template for part in parts]),
            np.concatenate([part.episode for part in parts]),
        )


class Logs(Generator):
    """Log lines that :data:`PATTERN` reads; the key is the session."""

    name = "logs"
    default_entities = 20

    def _prepare(self) -> None:
        self._plan_sessions(self._rng(PLAN))
        self._odd: dict[int, _Lines] = {}
        self._plan_episodes(self._rng(EPISODES))
        ends = np.cumsum(self._lengths)
        self._sessions = int(np.searchsorted(ends, self.records)) + 1 if self.records else 0
        if self._odd and max(self._odd) >= self._sessions - 1:
            raise self._too_short()
        if self._sessions:  # the stream ends in the middle of the last session
            self._lengths[self._sessions - 1] -= ends[self._sessions - 1] - self.records

    def _plan_sessions(self, rng: np.random.Generator) -> None:
        """Draw when sessions start, on which host, and how they run."""
        most = self.records // int(LENGTHS.min()) + 1
        activity = np.repeat(0.3 + bump(HOURS, np.array([14.0]), 1.0), self.entities, axis=1)
        per_day = SESSIONS_PER_HOST_AND_DAY * self.entities
        self._starts, self._hosts = arrivals(rng, activity, per_day, 1.0, self.start_ns, most)
        usual, changed = _draw(rng, SHARES_BEFORE, most), _draw(rng, SHARES_AFTER, most)
        if self.drift_at is not None:
            expected = self.records / float(LENGTHS[usual].mean())
            self.drift_ns = int(self._starts[int(self.drift_at * expected)])
        self._variants = np.where(self._drifted(self._starts), changed, usual)
        self._lengths = LENGTHS[self._variants]

    def _plan_episodes(self, rng: np.random.Generator) -> None:
        """Disturb some of the sessions."""
        spare = self.records - MOST_REPEATS * self.anomaly_episodes
        sessions = spare / float(self._lengths.mean())
        first, last = int(self.anomalies_from * sessions), int(LAST_SHARE * sessions)
        if last - first < 2 * self.anomaly_episodes:
            raise self._too_short()
        chosen = first + rng.choice(max(1, last - first), self.anomaly_episodes, replace=False)
        for index, session in enumerate(chosen.tolist()):
            kind, turn = KINDS[index % len(KINDS)], index // len(KINDS)
            variant = self._variants[session]
            odd = disturb(rng, kind, turn, VARIANTS[variant][0], SEQUENCES[variant])
            self._lengths[session] = len(odd.templates)
            pauses = np.where(odd.marked & odd.rushed, RUSHED_PAUSE_NS, PAUSE_NS)
            episode = np.where(odd.marked, index, -1).astype(np.int32)
            lines = self._lines(rng, np.array([session]), odd.templates, pauses, episode)
            self._odd[session] = lines
            times = lines.time[odd.marked].tolist()
            key = _key(session)
            self.episodes.append(
                Episode(index, kind, odd.name, key, times[0], times[-1], len(times))
            )

    def _lines(
        self,
        rng: np.random.Generator,
        sessions: NDArray[np.int64],
        templates: NDArray[np.int64],
        pauses: NDArray[np.int64],
        episode: NDArray[np.int32],
    ) -> _Lines:
        """Give all lines of some sessions their times; ``pauses`` are the means before each."""
        drawn = np.minimum(rng.gamma(2.0, 0.5, len(templates)) * pauses, LONGEST_PAUSE_NS)
        steps = drawn.astype(np.int64) // MILLISECOND_NS * MILLISECOND_NS
        lengths = self._lengths[sessions]
        first = np.cumsum(lengths) - lengths
        elapsed = np.cumsum(steps)
        elapsed -= np.repeat(elapsed[first], lengths)  # the first line stands at the start
        times = np.repeat(self._starts[sessions], lengths) + elapsed
        return _Lines(times, np.repeat(sessions, lengths), templates, episode)

    def _blocks(self) -> Iterator[Generated]:
        rng, parameters = self._rng(LINES), self._rng(PARAMETERS)
        running: list[_Lines] = []  # lines of earlier sessions that are still to come
        for first in range(0, self._sessions, BLOCK):
            sessions = np.arange(first, min(first + BLOCK, self._sessions))
            lines = _Lines.join([*running, *self._written(rng, sessions)])
            lines = lines.take(np.lexsort((lines.session, lines.time)))
            after = first + BLOCK
            due = len(lines.time)
            if after < self._sessions:
                due = int(np.searchsorted(lines.time, self._starts[after]))
            running = [lines.take(np.arange(due, len(lines.time)))]
            yield self._generated(parameters, lines.take(np.arange(due)))

    def _written(self, rng: np.random.Generator, sessions: NDArray[np.int64]) -> list[_Lines]:
        """Return the lines of sessions, the disturbed ones as planned."""
        odd = [session for session in sessions.tolist() if session in self._odd]
        usual = sessions[~np.isin(sessions, odd)]
        parts = [self._odd[session] for session in odd]
        if len(usual):
            templates = np.concatenate(
                [
                    SEQUENCES[variant][:length]
                    for variant, length in zip(
                        self._variants[usual].tolist(), self._lengths[usual].tolist(), strict=True
                    )
                ]
            )
            count = len(templates)
            pauses, episode = np.full(count, PAUSE_NS), np.full(count, -1, np.int32)
            parts.append(self._lines(rng, usual, templates, pauses, episode))
        return parts

    def _generated(self, rng: np.random.Generator, lines: _Lines) -> Generated:
        keys = [_key(session) for session in lines.session.tolist()]
        stamps = np.datetime_as_string((lines.time // MILLISECOND_NS).astype("datetime64[ms]"))
        rows = zip(
            stamps.tolist(),
            self._hosts[lines.session].tolist(),
            lines.template.tolist(),
            keys,
            _messages(rng, lines.template),
            strict=True,
        )
        values = [
            f"{stamp}Z node-{host:02d} {SOURCES[template]}[{key}]: {message}".encode()
            for stamp, host, template, key, message in rows
        ]
        labels = (lines.episode >= 0).astype(np.int8)
        return Generated(values, [key.encode() for key in keys], lines.time, labels, lines.episode)


def _messages(rng: np.random.Generator, templates: NDArray[np.int64]) -> list[str]:
    """Fill in the parameters of templates, all lines of one template at a time."""
    drawn = rng.integers(0, 1 << 31, (len(templates), MOST_PARAMETERS))
    messages = np.empty(len(templates), object)
    for template in np.unique(templates).tolist():
        rows = np.flatnonzero(templates == template)
        _, _, text, bounds = TEMPLATES[template]
        parameters = drawn[rows, : len(bounds)] % np.array(bounds)
        messages[rows] = [text % tuple(row) for row in parameters.tolist()]
    found: list[str] = messages.tolist()
    return found


def _draw(rng: np.random.Generator, shares: tuple[float, ...], count: int) -> NDArray[np.int64]:
    """Draw variants: a workflow by its share, its options evenly."""
    options = len(VARIANTS) // len(shares)
    chances = np.repeat(shares, options) / options
    return rng.choice(len(VARIANTS), count, p=chances)


def _key(session: int) -> str:
    return f"job-{session:06d}"
