"""What an audit found; the names are stable."""

from __future__ import annotations

import msgspec

from schemas.messages import Account


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that does not balance, or that the reader of a report should know.

    Attributes
    ----------
    stream, partition
        Where; a finding about a whole stream has no partition.
    check
        What was compared: a word for scripts.
    detail
        What was found, and what it means.
    """

    stream: str
    partition: int | None = None
    check: str
    detail: str


class Reconciled(msgspec.Struct, kw_only=True):
    """One partition of one stream: what its topics hold, beside what its account says.

    Attributes
    ----------
    log_begin, log_end
        Bounds of the input log; records before the first are gone.
    committed
        The group's commit: what lies before it is done. ``None`` where there is none.
    records, filtered, dead_letters, duplicates
        Counted in the log, within the offsets that the account speaks of: ``records_in``,
        and the fates that can be told from the records alone. ``duplicates`` only where the log
        begins no later than the account.
    letters
        Dead letters on the topic by the position of their record, each once.
    events, events_repeated, events_uncommitted
        Scored events by id and revision, each once; further copies; those that follow from records
        at or beyond the commit.
    account
        The newest account.
    balanced
        Whether nothing was found amiss.
    """

    stream: str
    topic: str
    partition: int
    log_begin: int
    log_end: int
    committed: int | None
    records: int = 0
    filtered: int = 0
    dead_letters: int = 0
    duplicates: int | None = None
    letters: int = 0
    events: int = 0
    events_repeated: int = 0
    events_uncommitted: int = 0
    account: Account | None = None
    balanced: bool = True


class Audit(msgspec.Struct, kw_only=True):
    """All partitions; ``problems`` do not balance, ``notes`` explain what could not be checked."""

    balanced: bool = True
    partitions: list[Reconciled] = []
    problems: list[Finding] = []
    notes: list[Finding] = []


class Findings:
    """Collects what is found about one stream, or one partition of it."""

    def __init__(self, stream: str, partition: int | None = None) -> None:
        self.stream, self._partition = stream, partition
        self.problems: list[Finding] = []
        self.notes: list[Finding] = []

    def problem(self, check: str, detail: str) -> None:
        """Report what does not balance."""
        self.problems.append(self._finding(check, detail))

    def note(self, check: str, detail: str) -> None:
        """Report what is worth knowing, and no fault."""
        self.notes.append(self._finding(check, detail))

    def equal(self, check: str, told: int, counted: int, gone: int, what: str) -> None:
        """Compare a count of the account with what was counted.

        ``gone`` is how many records may have left the log since, or -1 if there is no telling.
        """
        if told < counted or (gone >= 0 and told > counted + gone):
            least = f" and at most {gone:,} gone from the log" if gone > 0 else ""
            self.problem(check, f"the account says {told:,} {what}, found {counted:,}{least}")

    def _finding(self, check: str, detail: str) -> Finding:
        return Finding(stream=self.stream, partition=self._partition, check=check, detail=detail)


def some(offsets: list[int], most: int = 5) -> str:
    """Name the first few offsets."""
    named = ", ".join(map(str, offsets[:most]))
    return named + (", …" if len(offsets) > most else "")
