"""What the generated log lines say: templates, and the workflows that put them in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ERRORS", "NEWER", "TEMPLATES", "WORKFLOWS", "Template", "Workflow"]

# Placeholder: how it is printed, and the exclusive upper bounds of its random integers.
PLACEHOLDERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "count": ("%d", (500,)),
    "hex": ("%08x", (1 << 31,)),
    "id": ("%06d", (1_000_000,)),
    "ip": ("10.%d.%d.%d", (8, 250, 250)),
    "ms": ("%d", (5_000,)),
    "size": ("%d", (4_000_000,)),
}


class Template(NamedTuple):
    """A log statement, ready for ``text % parameters``.

    Attributes
    ----------
    level, component
        As they stand in the line.
    text
        Message with ``%`` placeholders.
    bounds
        Exclusive upper bounds of its parameters, which are integers from 0 on.
    """

    level: str
    component: str
    text: str
    bounds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Workflow:
    """The order of a session's lines: head, an optional line, the loop some times, tail."""

    head: tuple[int, ...]
    optional: int
    loop: tuple[int, ...]
    tail: tuple[int, ...]

    def lines(self, rounds: int, with_optional: bool) -> tuple[int, ...]:
        """Spell out the templates of a session."""
        optional = (self.optional,) if with_optional else ()
        return self.head + optional + self.loop * rounds + self.tail


TEMPLATES: list[Template] = []


def _add(level: str, component: str, text: str) -> int:
    """Put a template into the table and return its number."""
    bounds = [b for name in re.findall(r"{(\w+)}", text) for b in PLACEHOLDERS[name][1]]
    printed = re.sub(r"{(\w+)}", lambda match: PLACEHOLDERS[match[1]][0], text)
    TEMPLATES.append(Template(level, component, printed, tuple(bounds)))
    return len(TEMPLATES) - 1


def _info(component: str, text: str) -> int:
    return _add("INFO", component, text)


_ACCEPT = _info("scheduler", "Accepted job from {ip} with priority {count}")
_ASSIGN = _info("scheduler", "Assigned to worker slot {count} after {ms} ms in queue")
_RELEASE = _info("scheduler", "Released worker slot {count}")
_FINISH = _info("scheduler", "Job finished in {ms} ms with {count} items")

_IMPORT = Workflow(
    head=(
        _ACCEPT,
        _ASSIGN,
        _info("importer", "Opened input object {hex} of {size} bytes"),
        _info("importer", "Validated header, schema revision {count}"),
    ),
    optional=_add("WARN", "importer", "Input has {count} unknown columns, ignoring them"),
    loop=(
        _info("importer", "Read chunk {count} of {size} bytes"),
        _info("table", "Inserted {count} rows in {ms} ms"),
    ),
    tail=(
        _info("table", "Committed transaction {hex}"),
        _info("importer", "Closed input object {hex}"),
        _RELEASE,
        _FINISH,
    ),
)
_REPORT = Workflow(
    head=(
        _ACCEPT,
        _ASSIGN,
        _info("planner", "Planned query {hex} with cost {count}"),
        _info("planner", "Acquired read snapshot {id}"),
    ),
    optional=_info("cache", "Cache miss for plan {hex}, compiling"),
    loop=(_info("executor", "Fetched page {count} from partition {id} in {ms} ms"),),
    tail=(
        _info("renderer", "Rendered document of {size} bytes"),
        _info("uploader", "Uploaded result to {ip} in {ms} ms"),
        _RELEASE,
        _FINISH,
    ),
)
_BACKUP = Workflow(
    head=(
        _ACCEPT,
        _ASSIGN,
        _info("backup", "Created volume snapshot {hex}"),
        _info("backup", "Mounted snapshot at device {id}"),
    ),
    optional=_add("WARN", "backup", "Previous backup is {count} hours old"),
    loop=(
        _info("backup", "Copied block group {id}, {size} bytes"),
        _info("backup", "Verified digest {hex}"),
    ),
    tail=(
        _info("backup", "Wrote index with {count} entries"),
        _info("backup", "Removed volume snapshot {hex}"),
        _RELEASE,
        _FINISH,
    ),
)
_SYNC = Workflow(
    head=(
        _ACCEPT,
        _ASSIGN,
        _info("replica", "Connected to peer {ip}"),
        _info("replica", "Agreed on protocol {count}, session token {hex}"),
    ),
    optional=_info("replica", "Peer is {ms} ms behind"),
    loop=(
        _info("replica", "Received change set {id} of {size} bytes"),
        _info("replica", "Applied {count} changes"),
        _add("DEBUG", "replica", "Acknowledged position {id}"),
    ),
    tail=(
        _info("replica", "Caught up at position {id}"),
        _info("replica", "Disconnected from peer {ip}"),
        _RELEASE,
        _FINISH,
    ),
)

WORKFLOWS = (_IMPORT, _REPORT, _BACKUP, _SYNC)

NEWER = Workflow(
    head=(
        _ACCEPT,
        _ASSIGN,
        _info("stream", "Subscribed to feed {hex} at sequence {id}"),
    ),
    optional=_info("stream", "Resumed from bookmark {id}"),
    loop=(
        _info("stream", "Received batch of {count} events"),
        _info("stream", "Flushed buffer of {size} bytes in {ms} ms"),
    ),
    tail=(
        _info("stream", "Unsubscribed from feed {hex}"),
        _RELEASE,
        _FINISH,
    ),
)
"""A workflow that comes with a new release: nobody has seen its lines before the drift."""

ERRORS = (
    _add("ERROR", "storage", "Digest mismatch in block {id}: expected {hex}, found {hex}"),
    _add("ERROR", "kernel", "Out of memory while allocating {size} bytes, killed thread {count}"),
    _add("FATAL", "security", "Rejected forged token {hex} presented by {ip}"),
)
"""Lines that only anomalous sessions write."""
