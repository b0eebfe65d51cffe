"""The law: nothing is lost, nothing is wrong, whatever happened on the way."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from agents.audit.events import EXACT
from schemas.messages import (
    Account,
    DeadLetter,
    Incident,
    Message,
    RetrainRequest,
    ScoredEvent,
)
from tests.chaos.published import Published

M = TypeVar("M", bound=Message)

SCORE_TOLERANCE = 1e-5
TINY = 1e-9
EXAMPLES = 12

Ranks = Callable[[ScoredEvent], float]
"""How far apart p-values one rank of the calibration set are, for an event."""


class Verdict(msgspec.Struct, kw_only=True):
    """What the comparison found.

    ``duplicates`` counts messages that were published again: events with the same id and revision,
    dead letters of the same record, and incidents and requests that say the same in every detail.
    ``flips`` counts events that differ in ``is_anomaly`` within the tolerance of their p-values.
    """

    expected: int = 0
    lost: int = 0
    wrong: int = 0
    duplicates: int = 0
    flips: int = 0
    by_kind: dict[str, int] = {}
    examples: list[str] = []

    @property
    def holds(self) -> bool:
        """Whether nothing is lost and nothing wrong."""
        return not self.lost and not self.wrong


def judge(
    expected: Published, seen: Published, ranks: Ranks, *, exactly_once: bool = False
) -> Verdict:
    """Compare what was published with what should have been.

    Parameters
    ----------
    expected, seen
        What an undisturbed run publishes, and what an independent reader found.
    ranks
        The tolerance of p-values.
    exactly_once
        Whether a message that was published again is wrong.
    """
    verdict = Verdict()
    _scored(verdict, expected.scored, seen.scored, ranks)
    _letters(verdict, expected.letters, seen.letters)
    _accounts(verdict, expected.accounts, seen.accounts)
    _incidents(verdict, expected.incidents, seen.incidents)
    _requests(verdict, expected.requests, seen.requests)
    for given, wanted in ((seen.incidents, expected.incidents), (seen.requests, expected.requests)):
        verdict.duplicates += max(0, _repeated(given) - _repeated(wanted))
    if exactly_once and verdict.duplicates:
        _add(verdict, "published again", f"{verdict.duplicates} messages", "under exactly once")
    return verdict


def _scored(
    verdict: Verdict, expected: Sequence[ScoredEvent], seen: Sequence[ScoredEvent], ranks: Ranks
) -> None:
    """Compare every copy of the highest revision: they must all say the same."""
    wanted = {event.event_id: event for event in expected}
    found = _by(seen, lambda event: event.event_id)
    verdict.expected = len(wanted)
    copies = Counter((event.event_id, event.revision) for event in seen)
    verdict.duplicates += sum(copies.values()) - len(copies)
    _ids(verdict, "event", wanted, found)
    for event_id in wanted.keys() & found.keys():
        newest = max(event.revision for event in found[event_id])
        for event in found[event_id]:
            if event.revision != newest:
                continue
            differences = _differences(wanted[event_id], event, ranks)
            if "is_anomaly" in differences and set(differences) <= {"is_anomaly", "incident_id"}:
                verdict.flips += 1
            elif differences:
                _add(
                    verdict, "event differs", event_id, _told(wanted[event_id], event, differences)
                )
                break


def _differences(wanted: ScoredEvent, event: ScoredEvent, ranks: Ranks) -> list[str]:
    found = [name for name in EXACT if getattr(wanted, name) != getattr(event, name)]
    # put so that a number which is none is never near another
    if not abs(wanted.score - event.score) <= SCORE_TOLERANCE * max(abs(wanted.score), TINY):
        found.append("score")
    if not abs(wanted.p_value - event.p_value) <= ranks(wanted) * (1 + TINY):
        found.append("p_value")
    if not abs(wanted.threshold - event.threshold) <= TINY * wanted.threshold:
        found.append("threshold")
    if wanted.is_anomaly != event.is_anomaly:
        found.append("is_anomaly")
    return found


def _letters(verdict: Verdict, expected: Sequence[DeadLetter], seen: Sequence[DeadLetter]) -> None:
    def place(letter: DeadLetter) -> Hashable:
        return letter.topic, letter.partition, letter.offset

    wanted = {place(letter): letter for letter in expected}
    found = _by(seen, place)
    verdict.duplicates += len(seen) - len(found)
    _ids(verdict, "dead letter", wanted, found)
    for key in wanted.keys() & found.keys():
        if any(letter != wanted[key] for letter in found[key]):
            _add(verdict, "dead letter differs", key, found[key][-1].reason)


def _accounts(verdict: Verdict, expected: Sequence[Account], seen: Sequence[Account]) -> None:
    """Compare the last account of each partition; every one must balance."""
    wanted = {account.partition: account for account in expected}
    last = {account.partition: account for account in seen}
    _ids(verdict, "account", wanted, last)
    for number in wanted.keys() & last.keys():
        if wanted[number] != last[number]:
            names = [
                name
                for name in Account.__struct_fields__
                if getattr(wanted[number], name) != getattr(last[number], name)
            ]
            _add(verdict, "account differs", number, _told(wanted[number], last[number], names))
    for account in seen:
        fates = account.windowed + account.late + account.duplicate
        if account.records_in != fates + account.dead_letter + account.filtered:
            _add(verdict, "account does not balance", account.partition, repr(account))


def _incidents(verdict: Verdict, expected: Sequence[Incident], seen: Sequence[Incident]) -> None:
    """Compare the last revision of each incident; ``stale`` follows from the clock."""
    wanted, last = _last_revisions(expected), _last_revisions(seen)
    _ids(verdict, "incident", wanted, last)
    for name in wanted.keys() & last.keys():
        a, b = wanted[name], last[name]
        exact = ["state", "severity", "stream", "route", "keys", "key_count", "opened_at"]
        exact += ["first_event", "last_event", "events", "revision"]
        differ = [x for x in exact if getattr(a, x) != getattr(b, x)]
        if not abs(a.min_p_value - b.min_p_value) <= SCORE_TOLERANCE:
            differ.append("min_p_value")
        if [c.field for c in a.top] != [c.field for c in b.top]:
            differ.append("top")
        if differ:
            _add(verdict, "incident differs", name, _told(a, b, differ))


def _last_revisions(incidents: Sequence[Incident]) -> dict[str, Incident]:
    ordered = sorted(incidents, key=lambda incident: incident.revision)
    return {incident.incident_id: incident for incident in ordered}


def _requests(
    verdict: Verdict, expected: Sequence[RetrainRequest], seen: Sequence[RetrainRequest]
) -> None:
    """Compare requests for models; equal wishes of several partitions have one id."""
    wanted = _by(expected, lambda request: request.request_id)
    found = _by(seen, lambda request: request.request_id)
    _ids(verdict, "request", wanted, found)
    for name in wanted.keys() & found.keys():
        times = {request.requested_at for request in wanted[name]}
        differ = times ^ {request.requested_at for request in found[name]}
        if differ:
            told = [
                request
                for request in [*wanted[name], *found[name]]
                if request.requested_at in differ
            ]
            _add(verdict, "request differs", name, f"one of the two lacks {told}")


def _repeated(given: Sequence[Message]) -> int:
    """Count messages that are there already, byte by byte."""
    return len(given) - len({msgspec.json.encode(message) for message in given})


def _ids(
    verdict: Verdict, what: str, wanted: Mapping[Any, object], found: Mapping[Any, object]
) -> None:
    """Count what is missing, and what nobody expected."""
    for key in wanted.keys() - found.keys():
        verdict.lost += 1
        _note(verdict, f"{what} missing", key, _where(wanted[key]))
    for key in found.keys() - wanted.keys():
        _add(verdict, f"{what} not expected", key, _where(found[key]))


def _by(given: Sequence[M], key: Callable[[M], Hashable]) -> dict[Any, list[M]]:
    found: dict[Any, list[M]] = defaultdict(list)
    for message in given:
        found[key(message)].append(message)
    return found


def _add(verdict: Verdict, what: str, key: object, detail: str) -> None:
    verdict.wrong += 1
    _note(verdict, what, key, detail)


def _note(verdict: Verdict, what: str, key: object, detail: str) -> None:
    count = verdict.by_kind.get(what, 0)
    verdict.by_kind[what] = count + 1
    if count < EXAMPLES:
        verdict.examples.append(f"{what}: {key} {detail}".rstrip())


def _told(wanted: object, found: object, names: Sequence[str]) -> str:
    parts = [f"{n} {getattr(found, n)!r}, expected {getattr(wanted, n)!r}" for n in names]
    return "; ".join([*parts, _where(found)])


def _where(found: object) -> str:
    """Tell the place in the input that a message, or the first of several, speaks of."""
    first = found[0] if isinstance(found, list) else found
    names = ("partition", "offset", "last_offset", "model_id")
    return ", ".join(f"{n}={getattr(first, n)}" for n in names if hasattr(first, n))
