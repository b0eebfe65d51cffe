"""The audit of all streams, in an order that lets a worker go on meanwhile.

Accounts are read first, then commits, then outputs, commits again, and the input last: so what an
account speaks of, and what is committed, must be found in what is read later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from agents.audit.counted import Counted, Counter
from agents.audit.events import NO_EVENTS, EventColumns, Events
from agents.audit.outputs import Outputs
from agents.audit.places import offset_of, partition_of
from agents.audit.reconcile import Case, reconcile
from agents.audit.rekeyed import Rekeyed
from agents.audit.report import Audit, Findings, some
from agents.decode import Decoder
from connectors.base import Fetch, Partition
from connectors.kafka.admin import are_compacted, committed_offsets
from connectors.kafka.log import Bounds, LogReader
from schemas.config import Pipeline as Config
from schemas.messages import Account
from schemas.topics import Topics

Progress = Callable[[int], None]


def audit(config: Config, progress: Progress = lambda records: None) -> Audit:
    """Reconcile all streams of a deployment; changes nothing.

    Needs some 70 bytes for each scored event of the largest stream, and reads every topic once.

    Parameters
    ----------
    config
        The pipeline file.
    progress
        Called with how many input records have been read since the last call.

    Raises
    ------
    SetupError
        If the broker cannot be reached, or refuses.
    """
    result = Audit()
    with LogReader(config.kafka) as log:
        auditor = _Auditor(config, log, result, progress)
        for name in config.streams:
            auditor.stream(name)
    result.balanced = not result.problems
    return result


class _Auditor:
    """Audits stream by stream."""

    def __init__(self, config: Config, log: LogReader, result: Audit, progress: Progress) -> None:
        self._config, self._log, self._result, self._progress = config, log, result, progress
        self._topics = Topics(config.name)
        self._outputs = Outputs(config, log)
        found = Findings("")
        self._accounts = self._outputs.accounts(found)
        self._committed = committed_offsets(config.kafka, self._topics.worker_group)
        self._letters = self._outputs.letters(found)
        self._take(found)

    def stream(self, name: str) -> None:
        """Audit one stream."""
        stream, found = self._config.streams[name], Findings(name)
        topic = stream.source.topic if stream.key_partitioned else self._topics.keyed(name)
        rekey = None
        if not stream.key_partitioned:
            # before its topic is read: what was committed by now must be there then
            rekey = committed_offsets(self._config.kafka, self._topics.rekey_group(name))
        columns = self._outputs.events(name, found)
        incidents = self._outputs.incidents(name, found)
        after = committed_offsets(self._config.kafka, self._topics.worker_group)
        places = self._log.bounds(topic)
        if not places:
            found.problem("no-topic", f"there is no topic {topic!r}: create it (`eddy topics`)")
        compacted = bool(places) and are_compacted(self._config.kafka, [topic])[topic]
        cases = [
            self._case(name, partition, bounds, columns, after, compacted)
            for partition, bounds in places.items()
        ]
        # only now: a dead letter may speak of a record of any partition
        for case in cases:
            row, said = reconcile(case)
            self._result.partitions.append(row)
            self._take(said)
        self._unmet(name, topic, places, found)
        self._incidents(cases, incidents, found)
        _strangers(topic, columns, found)
        self._take(found)
        if rekey is not None:
            self._rekeyed(name, rekey, cases, any(b.begin for b in places.values()))

    def _case(
        self,
        name: str,
        partition: Partition,
        bounds: Bounds,
        columns: dict[Partition, EventColumns],
        after: Mapping[Partition, int],
        compacted: bool,
    ) -> Case:
        stream, account = self._config.streams[name], self._accounts.get(partition)
        events = columns.pop(partition, None)
        return Case(
            name=name,
            stream=stream,
            partition=partition,
            account=account,
            committed=self._committed.get(partition),
            committed_after=after.get(partition),
            bounds=bounds,
            compacted=compacted,
            counted=self._count(name, partition, bounds, account),
            letters=self._letters[name],
            events=NO_EVENTS if events is None else events.settle(),
            letters_expired=self._topics.dead_letters in self._outputs.expired,
            events_expired=self._topics.scored(name) in self._outputs.expired,
            exactly_once=self._config.delivery == "exactly_once",
        )

    def _count(
        self, name: str, partition: Partition, bounds: Bounds, account: Account | None
    ) -> Counted:
        stream = self._config.streams[name]
        counter = Counter(
            Decoder(name, stream, self._config.limits),
            account,
            self._committed.get(partition, 0),
            self._letters[name],
            rekeyed=not stream.key_partitioned,
        )
        return counter(self._read(partition, bounds))

    def _read(self, partition: Partition, bounds: Bounds) -> Iterator[Fetch]:
        for fetch in self._log.read(partition, bounds):
            yield fetch
            self._progress(len(fetch))

    def _unmet(
        self, name: str, topic: str, places: Mapping[Partition, Bounds], found: Findings
    ) -> None:
        """See to dead letters whose records were not met in the log."""
        letters = self._letters[name]
        if letters.elsewhere:
            found.problem(
                "dead-letter-nowhere", f"{letters.elsewhere:,} dead letters name another topic"
            )
        if letters.repeated and self._config.streams[name].source.format != "arrow":
            found.note(
                "dead-letter-repeated",
                f"{letters.repeated:,} dead letters were published again, and count once",
            )
        unmet = letters.places[letters.met < 0]
        rekeyed = topic != self._config.streams[name].source.topic
        begins = {partition.number: bounds.begin for partition, bounds in places.items()}
        if rekeyed:
            nowhere = unmet if not any(begins.values()) else unmet[:0]
        else:
            begin = np.array([begins.get(x, 0) for x in partition_of(unmet).tolist()])
            nowhere = unmet[np.array(offset_of(unmet)) >= begin]
        if len(nowhere):
            found.problem(
                "dead-letter-nowhere",
                f"{len(nowhere):,} dead letters name records that do not exist, at offsets "
                f"{some(offset_of(nowhere))}",
            )
        if len(unmet) > len(nowhere):
            found.note(
                "dead-letter-old",
                f"{len(unmet) - len(nowhere):,} dead letters speak of records that are gone",
            )

    def _incidents(self, cases: list[Case], count: int, found: Findings) -> None:
        """Compare the incidents of a stream: they do not say which partition they are of."""
        name = found.stream
        if self._topics.alerts(name) in self._outputs.expired:
            return
        ours = [c for c in cases if c.account is not None]
        if any(c.account.last_offset >= c.done or not c.whole for c in ours if c.account):
            return
        told = sum(c.account.incidents for c in ours if c.account)
        if count < told or (count > told and all(c.settled for c in cases)):
            found.problem("incidents", f"the accounts say {told:,} incidents, found {count:,}")

    def _rekeyed(
        self, name: str, committed: Mapping[Partition, int], cases: list[Case], expired: bool
    ) -> None:
        topic = self._config.streams[name].source.topic
        rekeyed = Rekeyed([case.counted.places for case in cases], expired=expired)
        after = committed_offsets(self._config.kafka, self._topics.rekey_group(name))
        if rekeyed.foreign:
            found = Findings(name)
            found.note("rekey-foreign", f"{rekeyed.foreign:,} re-keyed records name another topic")
            self._take(found)
        for partition, bounds in self._log.bounds(topic).items():
            found = Findings(name)
            fetches = self._log.read(partition, bounds)
            done, done_after = committed.get(partition, 0), after.get(partition, 0)
            rekeyed.check(partition, fetches, done, done_after, found)
            self._take(found)

    def _take(self, found: Findings) -> None:
        self._result.problems += found.problems
        self._result.notes += found.notes


def _strangers(topic: str, columns: Mapping[Partition, EventColumns], found: Findings) -> None:
    """Report events of partitions that there are not."""
    for partition, events in columns.items():
        count: Events = events.settle()
        found.problem(
            "event-nowhere",
            f"{len(count.last):,} events name {partition.topic}/{partition.number}, which is no "
            f"partition of {topic!r}",
        )
