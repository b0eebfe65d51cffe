"""Three brokers, which the workers reach through proxies and everybody else directly."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from kafka import KafkaAdminClient

from connectors.broker import Broker
from connectors.broker.broker import _choose_ports
from connectors.broker.node import HOST, Node
from tests.chaos.proxy import Proxies
from tests.chaos.schedule import NODES


class _Broker(Broker):
    """A cluster with a second listener per node, advertised at a proxy's port."""

    def __init__(self, inner: list[int], outer: list[int]) -> None:
        super().__init__(nodes=NODES)
        self._inner, self._outer = inner, outer

    def _spawn(self, node: Node) -> None:
        made = self._properties[node.number]
        if "WORKERS" not in str(made["listeners"]):
            inner, outer = self._inner[node.number - 1], self._outer[node.number - 1]
            made["listeners"] = f"{made['listeners']},WORKERS://{HOST}:{inner}"
            advertised = f"{made['advertised.listeners']},WORKERS://{HOST}:{outer}"
            made["advertised.listeners"] = advertised
            protocols = f"{made['listener.security.protocol.map']},WORKERS:PLAINTEXT"
            made["listener.security.protocol.map"] = protocols
        super()._spawn(node)


class Cluster:
    """The brokers and the proxies.

    Attributes
    ----------
    proxies
        What the workers' traffic passes.
    """

    def __init__(self) -> None:
        inner = _choose_ports(0, NODES)[:NODES]
        self.proxies = Proxies(inner)
        self._inner = inner
        self._broker: Broker

    def __enter__(self) -> Self:
        self.proxies.start()
        try:
            self._broker = _Broker(self._inner, self.proxies.ports).start()
        except BaseException:
            self.proxies.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._broker.stop(orderly=False)
        self.proxies.stop()

    @property
    def bootstrap(self) -> str:
        """Where the harness connects."""
        return self._broker.bootstrap

    @property
    def workers_bootstrap(self) -> str:
        """Where the workers connect."""
        return ",".join(f"{HOST}:{port}" for port in self.proxies.ports)

    def leader(self, topic: str, partition: int) -> int:
        """Return the node that leads a partition."""
        with KafkaAdminClient(bootstrap_servers=self.bootstrap.split(",")) as admin:
            [found] = admin.describe_topics([topic])
        leaders = {x["partition_index"]: x["leader_id"] for x in found["partitions"]}
        return int(leaders[partition])

    def delete(self, topics: list[str]) -> None:
        """Delete topics, to make room for the next run."""
        with KafkaAdminClient(bootstrap_servers=self.bootstrap.split(",")) as admin:
            admin.delete_topics(topics)

    def kill(self, node: int) -> None:
        """Kill a node."""
        self._broker.kill(node)

    def restart(self, node: int) -> None:
        """Start a node that was killed."""
        self._broker.restart(node)
