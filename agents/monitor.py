"""Metrics and probes of a worker process over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from connectors.base import Fetch, Output, Partition
from schemas.messages import Account

if TYPE_CHECKING:  # it loads everything else
    from agents.residents import KeyCounts

_KEYS = {
    "keys_resident": "Keys in memory",
    "keys_spilled": "Keys that wait on the local disk",
    "state_bytes": "Memory that what is known of keys takes",
    "spill_bytes": "Disk that the keys take which wait there",
}
_WENT = {
    "evicted": "Keys that went from memory to the local disk",
    "returned": "Keys that came back from there",
    "scattered": "Keys found on a second partition of their stream",
}

FATES = ("windowed", "late", "duplicate", "dead_letter", "filtered")
WINDOWS = ("windows", "scored", "unscored", "anomalies", "revisions")
INCIDENTS = ("incidents", "suppressed")
PLACE = ("stream", "topic", "partition")


class Monitor:
    """What a worker counts; Prometheus reads it at ``/metrics``.

    Attributes
    ----------
    accounts
        Accounts of the worker's partitions as of their commits. Their counters go on where those of
        the partition's last owner ended: unlike all others they do not start at zero.
    """

    def __init__(self) -> None:
        self.accounts: Sequence[Account] = ()
        self.registry = CollectorRegistry()
        self.registry.register(_Accounts(self))
        self._records = Counter(
            "eddy_records", "Records read", ["topic", "partition"], registry=self.registry
        )
        self._outputs = Counter(
            "eddy_outputs", "Messages handed over for publishing", ["topic"], registry=self.registry
        )
        self._expired = Counter(
            "eddy_records_expired",
            "Records that the log's retention deleted before they were read",
            ["topic", "partition"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "eddy_batch_seconds", "Time to process a batch of fetches", registry=self.registry
        )
        self._gauges = {
            name: Gauge(f"eddy_{name}", what, registry=self.registry)
            for name, what in _KEYS.items()
        }
        self._went = {
            name: Counter(f"eddy_keys_{name}", what, registry=self.registry)
            for name, what in _WENT.items()
        }
        self._counted = dict.fromkeys(_WENT, 0)
        self.ready = Gauge(
            "eddy_ready", "1 if the worker waits for nothing", registry=self.registry
        )

    def batch(self, fetches: Sequence[Fetch], outputs: Sequence[Output], seconds: float) -> None:
        """Count a processed batch."""
        for fetch in fetches:
            topic, number = fetch.partition
            self._records.labels(topic, number).inc(len(fetch))
        counts: dict[str, int] = {}
        for output in outputs:
            counts[output.topic] = counts.get(output.topic, 0) + 1
        for topic, count in counts.items():
            self._outputs.labels(topic).inc(count)
        self._seconds.observe(seconds)

    def keys(self, counts: KeyCounts) -> None:
        """Take note of the keys in memory and on the local disk."""
        self._gauges["keys_resident"].set(counts.resident)
        self._gauges["keys_spilled"].set(counts.spilled)
        self._gauges["state_bytes"].set(counts.state_bytes)
        self._gauges["spill_bytes"].set(counts.spill_bytes)
        for name in _WENT:
            self._went[name].inc(getattr(counts, name) - self._counted[name])
            self._counted[name] = getattr(counts, name)

    def expired(self, partition: Partition, count: int) -> None:
        """Count records that were gone before they were read."""
        self._expired.labels(*partition).inc(count)


class _Accounts(Collector):
    """Turns the accounts into counters."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """Yield the counters, all of the same accounts."""
        accounts = self._monitor.accounts
        for name, about, label, kinds in (
            ("eddy_fate_records", "Records by what became of them", "fate", FATES),
            ("eddy_windows", "Windows by what became of them", "outcome", WINDOWS),
            (
                "eddy_incidents",
                "Incidents opened, and those suppressed",
                "kind",
                INCIDENTS,
            ),
        ):
            counter = CounterMetricFamily(name, about, labels=(*PLACE, label))
            for account in accounts:
                place = (account.stream, account.topic, str(account.partition))
                for kind in kinds:
                    counter.add_metric((*place, kind), getattr(account, kind))
            yield counter


Probe = Callable[[], tuple[bool, bool, str]]
"""Returns ready, healthy, and what the worker waits for."""


def serve_monitor(monitor: Monitor, probe: Probe, port: int) -> ThreadingHTTPServer:
    """Answer ``/healthz``, ``/readyz`` and ``/metrics`` on ``port`` from a thread of its own."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready, healthy, reason = probe()
            monitor.ready.set(ready)
            if self.path == "/metrics":
                self._send(200, generate_latest(monitor.registry), "text/plain; version=0.0.4")
            elif self.path in ("/healthz", "/readyz"):
                fine = healthy if self.path == "/healthz" else ready
                self._send(200 if fine else 503, (reason or "ok").encode(), "text/plain")
            else:
                self._send(404, b"there are /healthz, /readyz and /metrics", "text/plain")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep probes out of the log."""

    server = ThreadingHTTPServer(("0.0.0.0", port), Answer)  # noqa: S104 - probes come from outside
    threading.Thread(target=server.serve_forever, name="monitor", daemon=True).start()
    return server
