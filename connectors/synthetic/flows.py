"""Network flows: JSON messages keyed by host.

A host has a role (web server, database, workstation, mail, storage) that sets its ports and
sizes, and a busy hour: volumes fall to a tenth twelve hours away from it. Episodes: one flow that
sends out thousands of times the usual bytes; flows with the volume of the busy hour in the quiet
one, or on a port of another role; a scan of many ports within a minute. The drift raises volumes
two and a half times and moves a third of the HTTPS flows to UDP.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.synthetic.base import Kind
from connectors.synthetic.records import Columns, RecordGenerator, pick
from connectors.synthetic.rhythm import DAY_NS, HOUR_NS, HOURS, MILLISECOND_NS, bump

__all__ = ["Flows"]

QUIET_VOLUME = 0.1
TCP, UDP = 0, 1
PROTOCOLS = (b"tcp", b"udp")
HTTPS, DNS = 443, 53

DRIFT_FACTOR = 2.5
DRIFT_UDP = 0.33


class Role(NamedTuple):
    """Shares of the ports, logs of the median bytes and milliseconds, and the busy hour."""

    ports: dict[int, float]
    bytes_in: float
    bytes_out: float
    duration: float
    busy_hour: float


ROLES = (
    Role({443: 0.90, 80: 0.07, 53: 0.03}, 7.5, 9.5, 5.0, 14.0),  # web server
    Role({5432: 0.94, 53: 0.03, 22: 0.03}, 8.0, 9.0, 4.5, 13.0),  # database
    Role({443: 0.85, 80: 0.04, 53: 0.08, 993: 0.03}, 9.0, 8.0, 5.5, 12.0),  # workstation
    Role({25: 0.90, 993: 0.06, 53: 0.04}, 8.5, 8.5, 5.0, 11.0),  # mail
    Role({445: 0.90, 2049: 0.07, 22: 0.03}, 9.5, 8.0, 5.5, 2.0),  # storage, backups at night
)
ROLE_SHARES = (0.2, 0.15, 0.45, 0.1, 0.1)
MOST_PORTS = max(len(role.ports) for role in ROLES)

PORTS = np.array([[*r.ports, *[0] * (MOST_PORTS - len(r.ports))] for r in ROLES])
PORT_SHARES = np.array(
    [np.cumsum([*r.ports.values(), *[0] * (MOST_PORTS - len(r.ports))]) for r in ROLES]
)
SIZES = np.array([[r.bytes_in, r.bytes_out, r.duration] for r in ROLES])
BUSY = np.array([r.busy_hour for r in ROLES])

LINE = (
    b'{"flow_id":"flow-%d-%09d","host":"host-%04d","ts":%d,"bytes_in":%d,"bytes_out":%d,'
    b'"packets":%d,"duration_ms":%d,"port":%d,"proto":"%s"}'
)


class Flows(RecordGenerator):
    """Network flows.

    Fields: ``flow_id`` (unique), ``host`` (key), ``ts`` (ms), ``bytes_in``, ``bytes_out``,
    ``packets``, ``duration_ms``, ``port`` and ``proto`` (categories).
    """

    name = "flows"
    default_entities = 100
    per_day = 120.0
    regularity = 12.0

    def _habits(self, rng: np.random.Generator) -> NDArray[np.float64]:
        hosts = self.entities
        self._role = rng.choice(len(ROLES), hosts, p=ROLE_SHARES)
        self._size = SIZES[self._role] + rng.normal(0, 0.15, (hosts, 3))
        self._busy = BUSY[self._role] + rng.normal(0, 0.7, hosts)
        rate = rng.lognormal(0, 0.3, hosts)
        return rate * (0.3 + bump(HOURS, self._busy, 1.5))

    def _key(self, entity: int) -> str:
        return f"host-{entity:04d}"

    def _quiet_hour(self, entity: int) -> float:
        return float(self._busy[entity] + 12)

    def _normal(
        self, rng: np.random.Generator, entity: NDArray[np.int64], times: NDArray[np.int64]
    ) -> Columns:
        count = len(entity)
        hour = times % DAY_NS / HOUR_NS
        volume = QUIET_VOLUME + (1 - QUIET_VOLUME) * bump(hour, self._busy[entity], 1.5)
        drifted = self._drifted(times)
        volume *= np.where(drifted, DRIFT_FACTOR, 1.0)
        # the sizes of a flow go together
        common = rng.normal(0, 0.25, count)
        noise = rng.normal(0, 0.15, (count, 3))
        size = self._size[entity] + common[:, None] + noise
        port = PORTS[self._role[entity], pick(rng, PORT_SHARES[self._role[entity]])]
        moves = drifted & (port == HTTPS) & (rng.random(count) < DRIFT_UDP)
        columns = {
            "time": times,
            "entity": entity,
            "bytes_in": np.ceil(volume * np.exp(size[:, 0])),
            "bytes_out": np.ceil(volume * np.exp(size[:, 1])),
            "duration": np.ceil(np.exp(size[:, 2])),
            "port": port,
            "protocol": np.where((port == DNS) | moves, UDP, TCP),
        }
        columns["packets"] = _packets(rng, columns)
        return columns

    def _abnormal(
        self, rng: np.random.Generator, kind: Kind, turn: int, entity: int, at_ns: int
    ) -> tuple[str, Columns]:
        count, gap_ms = {
            "point": (1, 0),
            "contextual": (8, 90_000),
            "group": (int(rng.integers(100, 201)), 300),
        }[kind]
        gaps = rng.uniform(0.5, 1.5, count) * gap_ms
        times = at_ns + np.cumsum(gaps.astype(np.int64)) * MILLISECOND_NS
        columns = self._normal(rng, np.full(count, entity), times)
        if kind == "group":
            self._scan(rng, columns)
            return "port_scan", columns
        if kind == "contextual" and turn % 2:
            own = set(ROLES[self._role[entity]].ports)
            others = sorted({port for role in ROLES for port in role.ports} - own - {DNS})
            columns["port"] = np.full(count, rng.choice(others))
            columns["protocol"] = np.full(count, TCP)
            return "odd_port", columns
        if kind == "contextual":
            factor = rng.uniform(1.0, 1.3, count) / QUIET_VOLUME
            columns["bytes_in"] = np.ceil(columns["bytes_in"] * factor)
            columns["bytes_out"] = np.ceil(columns["bytes_out"] * factor)
            name = "odd_hour_volume"
        else:
            columns["bytes_out"] = np.ceil(columns["bytes_out"] * rng.uniform(1000, 5000, count))
            columns["duration"] = columns["duration"] * 20
            name = "exfiltration"
        columns["packets"] = _packets(rng, columns)
        return name, columns

    def _scan(self, rng: np.random.Generator, columns: Columns) -> None:
        count = len(columns["time"])
        columns["port"] = rng.integers(1, 65_536, count)
        columns["protocol"] = np.full(count, TCP)
        columns["bytes_in"] = rng.integers(0, 61, count)
        columns["bytes_out"] = rng.integers(40, 121, count)
        columns["duration"] = rng.integers(0, 6, count)
        columns["packets"] = rng.integers(1, 3, count)

    def _encode(self, columns: Columns, first: int) -> list[bytes]:
        rows = zip(
            range(first, first + len(columns["time"])),
            columns["entity"].tolist(),
            (columns["time"] // MILLISECOND_NS).tolist(),
            columns["bytes_in"].tolist(),
            columns["bytes_out"].tolist(),
            columns["packets"].tolist(),
            columns["duration"].tolist(),
            columns["port"].tolist(),
            [PROTOCOLS[protocol] for protocol in columns["protocol"].tolist()],
            strict=True,
        )
        return [LINE % (self.seed, *row) for row in rows]


def _packets(rng: np.random.Generator, columns: Columns) -> NDArray[np.float64]:
    """Draw as many packets as the bytes need, of 600 to 1200 bytes on the average."""
    total = columns["bytes_in"] + columns["bytes_out"]
    return np.asarray(np.ceil(total / rng.uniform(600, 1200, len(total))))
