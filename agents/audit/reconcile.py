"""Reconciling one partition: what its topics hold against what its account says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.audit.counted import Counted
from agents.audit.events import NO_EVENTS, Events
from agents.audit.letters import Letters
from agents.audit.report import Findings, Reconciled, some
from connectors.base import Partition
from connectors.kafka.log import Bounds
from schemas.config import Sliding, Stream
from schemas.messages import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that is known of one partition.

    Attributes
    ----------
    committed, committed_after
        The group's commit before the outputs were looked at, and after: what lies before the one
        must have been published by then, what lies beyond the other is not committed.
    bounds, compacted
        Of the input log; a compacted one may have lost any record.
    letters_expired, events_expired
        Whether the topics of outputs have lost their beginnings.
    exactly_once
        Whether nothing may be published twice, or before its offset is committed.
    """

    name: str
    stream: Stream
    partition: Partition
    account: Account | None
    committed: int | None
    committed_after: int | None
    bounds: Bounds
    compacted: bool
    counted: Counted
    letters: Letters
    events: Events = NO_EVENTS
    letters_expired: bool = False
    events_expired: bool = False
    exactly_once: bool = False

    @property
    def done(self) -> int:
        """The first offset that need not be done."""
        return self.committed or 0

    @property
    def settled(self) -> bool:
        """Whether the account speaks of the newest record, so that nothing can follow it yet."""
        return (
            self.account is not None and self.counted.offsets.bounds[1] == self.account.last_offset
        )

    @property
    def whole(self) -> bool:
        """Whether the account speaks of the log's records from the first on."""
        first, _ = self.counted.offsets.bounds
        return self.account is not None and self.account.first_offset <= max(first, 0)


def reconcile(case: Case) -> tuple[Reconciled, Findings]:
    """Compare; each discrepancy is one problem."""
    found = Findings(case.name, case.partition.number)
    counted, account = case.counted, case.account
    _log(case, found)
    _letters(case, found)
    _published(case, found)
    if account is not None:
        _account(case, account, found)
        _fates(case, account, found)
        _windows(case, account, found)
    mine = case.letters.partition == case.partition.number
    row = Reconciled(
        stream=case.name,
        topic=case.partition.topic,
        partition=case.partition.number,
        log_begin=case.bounds.begin,
        log_end=case.bounds.end,
        committed=case.committed,
        records=counted.records,
        filtered=counted.filtered,
        dead_letters=counted.dead_letters,
        duplicates=counted.duplicates if case.whole else None,
        letters=int(mine.sum()),
        events=len(case.events.last),
        events_repeated=case.events.repeated,
        events_uncommitted=_uncommitted(case),
        account=account,
        balanced=not found.problems,
    )
    return row, found


def _log(case: Case, found: Findings) -> None:
    """Compare the commit and the reach of the account with the log."""
    counted, account = case.counted, case.account
    if case.done > case.bounds.end:
        found.problem(
            "commit",
            f"offset {case.done} is committed, the log ends at {case.bounds.end}: was the topic "
            "deleted and made again?",
        )
    if account is None:
        held = counted.unaccounted
        if held:
            found.problem(
                "no-account",
                f"{held:,} records are committed and no account speaks of them; a worker publishes "
                "one every few seconds and when it stops",
            )
        return
    if counted.unaccounted:
        found.note(
            "account-behind",
            f"{counted.unaccounted:,} committed records are in no account yet: the newest speaks "
            f"of those up to offset {account.last_offset}; the worker's next will",
        )
    if account.last_offset >= case.done:
        found.note(
            "account-ahead",
            f"the account speaks of records up to offset {account.last_offset}, the commit is at "
            f"{case.done}: outputs may be on their way, and were not compared with it",
        )


def _account(case: Case, account: Account, found: Findings) -> None:
    """Check what an account says by itself."""
    fates = account.windowed + account.late + account.duplicate
    fates += account.dead_letter + account.filtered
    if account.records_in != fates:
        found.problem(
            "account-balance",
            f"the account says {account.records_in:,} records in, and its fates add up to "
            f"{fates:,}",
        )
    routes = case.stream.routes
    judged, made = account.scored + account.unscored, account.windows * len(routes)
    if judged != made and not any(route.when for route in routes):
        found.problem(
            "account-windows",
            f"the account says {account.windows:,} windows for {len(routes)} detectors, and "
            f"{judged:,} scored or unscored",
        )


def _fates(case: Case, account: Account, found: Findings) -> None:
    """Compare the fates that can be told from the records alone."""
    counted, begin = case.counted, case.bounds.begin
    gone = max(0, begin - account.first_offset)
    if case.compacted or (gone and case.stream.source.format == "arrow"):
        gone = -1
    if gone:
        found.note(
            "log-moved",
            f"reconciled from offset {begin} on, where the log begins; the account speaks of "
            f"records from {account.first_offset} on"
            + (", and the log is compacted" if case.compacted else ""),
        )
    elif account.first_offset > max(counted.offsets.bounds[0], 0):
        found.note(
            "account-begins",
            f"the account begins at offset {account.first_offset}; it does not speak of the "
            f"records from {counted.offsets.bounds[0]} on, whose dead letters were checked",
        )
    if account.records_in and account.last_offset >= case.bounds.end:
        found.problem(
            "account-range",
            f"the account speaks of offset {account.last_offset}, the log ends at "
            f"{case.bounds.end}",
        )
    found.equal("records", account.records_in, counted.records, gone, "records in")
    found.equal("dead-letter", account.dead_letter, counted.dead_letters, gone, "dead letters")
    found.equal("filtered", account.filtered, counted.filtered, gone, "filtered")
    if case.whole and not gone:
        found.equal("duplicate", account.duplicate, counted.duplicates, 0, "duplicates")
    _late(case, account, found, gone)


def _late(case: Case, account: Account, found: Findings, gone: int) -> None:
    """Compare late records with their dead letters, where they have some."""
    rows = case.stream.source.format == "arrow"
    if case.stream.late != "dead_letter" or rows:
        found.note(
            "late",
            "whether a record came late cannot be told from the records alone"
            + (": the rows of a message share a dead letter" if rows else ""),
        )
    elif account.last_offset < case.done and not case.letters_expired:
        met = case.letters.met[case.letters.late & (case.letters.partition == case.partition[1])]
        late = int(((met >= account.first_offset) & (met <= account.last_offset)).sum())
        found.equal("late", account.late, late, gone, "late records")


def _letters(case: Case, found: Findings) -> None:
    """Compare the dead-letter topic with the records that cannot be used."""
    counted, letters = case.counted, case.letters
    if counted.missing:
        say = found.note if case.letters_expired else found.problem
        expired = "; the topic has lost its beginning" if case.letters_expired else ""
        say(
            "dead-letter-missing",
            f"{counted.missing:,} records that cannot be used have no dead letter: "
            f"{', '.join(counted.named)}{', …' if counted.missing > len(counted.named) else ''}"
            + expired,
        )
    mine = letters.partition == case.partition.number
    wrong = mine & letters.bad & ~letters.expected
    if wrong.any():
        found.problem(
            "dead-letter-unfounded",
            f"{int(wrong.sum()):,} dead letters speak of records that can be used, at offsets "
            f"{some(letters.met[wrong].tolist())}; were the stream's settings changed?",
        )


def _published(case: Case, found: Findings) -> None:
    """Check events by themselves, and against the records that they point at."""
    events = case.events
    if events.conflicting:
        found.problem(
            "event-conflict",
            f"{events.conflicting:,} events were published again with other facts than before",
        )
    if events.repeated:
        say = found.problem if case.exactly_once else found.note
        say(
            "event-repeated",
            f"{events.repeated:,} events were published again with the same id and revision"
            + ("" if case.exactly_once else ", as may happen with at least once"),
        )
    beyond = _uncommitted(case)
    if beyond:
        say = found.problem if case.exactly_once else found.note
        say(
            "event-uncommitted",
            f"{beyond:,} events follow from records at or beyond the commit "
            f"{case.committed_after or 0}"
            + ("" if case.exactly_once else ": published, not yet committed"),
        )
    begin, end = case.bounds
    for name, at in (("first", events.first), ("last", events.last)):
        at = at[at >= begin]
        nowhere = at[(at >= end) if case.compacted else ~case.counted.offsets.hold(at)]
        if len(nowhere):
            found.problem(
                "event-nowhere",
                f"{len(nowhere):,} events name a {name} record that does not exist, at offsets "
                f"{some(np.unique(nowhere).tolist())}",
            )


def _uncommitted(case: Case) -> int:
    return int((case.events.last >= (case.committed_after or 0)).sum())


def _windows(case: Case, account: Account, found: Findings) -> None:
    """Compare the events with the windows that the account says were scored."""
    if account.last_offset >= case.done:
        return
    stream, events = case.stream, case.events
    sliding = isinstance(stream.window, Sliding)
    within = events.last <= account.last_offset
    if sliding:
        within &= events.last >= account.first_offset
    elif not case.whole:
        found.note("events", "the account begins amid windows: events were not compared with it")
        return
    # a window of event time is published with a later record than its last, perhaps one beyond
    # the account
    exact = sliding or case.settled
    _anomalies(case, account, found, int((within & events.anomaly).sum()), exact)
    if stream.emit.mode != "all":
        found.note(
            "events",
            f"with `emit: {stream.emit.mode}` only anomalies can be compared with the account",
        )
        return
    routes = stream.routes
    if account.revisions and (account.unscored or any(route.when for route in routes)):
        found.note(
            "events", "revisions of windows that no detector scored: events were not compared"
        )
        return
    wanted = account.scored + len(routes) * account.revisions
    _compare(case, found, "events", wanted, int(within.sum()), exact, "scored events")


def _anomalies(case: Case, account: Account, found: Findings, count: int, exact: bool) -> None:
    if case.stream.lateness:
        found.note("anomalies", "with a `lateness` anomalies cannot be compared with the account")
        return
    # a copy may fall on the other side of the threshold by rounding
    if abs(account.anomalies - count) > case.events.flipped:
        _compare(case, found, "anomalies", account.anomalies, count, exact, "anomalies")


def _compare(
    case: Case, found: Findings, check: str, wanted: int, count: int, exact: bool, what: str
) -> None:
    lost, surplus = count < wanted, exact and count > wanted
    if lost and case.events_expired:
        found.note(check, f"{count:,} of {wanted:,} {what} are left: their topic has expired some")
    elif lost or surplus:
        found.problem(check, f"the account says {wanted:,} {what}, found {count:,}")
