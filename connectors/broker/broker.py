"""The development cluster: start, ready, kill and restart of single nodes, stop."""

import base64
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from connectors.broker.config import node_properties
from connectors.broker.jars import find_java, jars_directory
from connectors.broker.node import HOST, Node, PortTakenError, port_is_free
from schemas.errors import SetupError

__all__ = ["Broker"]

# Below the range from which Linux takes the local ports of outgoing connections (32768 up). There,
# the port of a killed node could be taken before its restart, and a client that keeps retrying a
# dead loopback port can even connect to itself.
PORT_RANGE = range(15_000, 32_000)

# How often to begin anew when somebody else took a port between the choice and the bind.
PORT_ATTEMPTS = 3

# How often a node that refuses connections is asked again; its end wakes the wait earlier.
POLL_SECONDS = 0.05

# An orderly shutdown moves leaders away, which the last nodes of a cluster cannot: do not wait on.
STOP_SECONDS = 10.0


class Broker:
    """A real Kafka cluster on loopback that ends with this process.

    Nodes are combined KRaft controllers and brokers. Topics are not created by use. With three
    nodes or more, topics get three replicas and need two in sync. Nothing is deleted by age, since
    replayed records carry old timestamps.

    Parameters
    ----------
    port
        Of the first node, the others follow; 0 takes any free ports.
    nodes
        How many.
    directory
        Where the data stays between starts. None takes a temporary one, removed at :meth:`stop`.
    properties
        Kafka settings that win over ours, for every node, for example
        ``{"message.max.bytes": 20 << 20}``.
    timeout_seconds
        How long a start may take until the cluster answers.

    Raises
    ------
    SetupError
        From :meth:`start`, if Java, Maven, a port or the folder is missing, or a node fails.

    Notes
    -----
    Not thread-safe: one thread at a time may call its methods.
    """

    def __init__(
        self,
        port: int = 0,
        nodes: int = 1,
        directory: str | Path | None = None,
        properties: Mapping[str, object] | None = None,
        timeout_seconds: float = 90.0,
    ) -> None:
        if nodes < 1:
            message = f"a broker has at least one node, not {nodes}"
            raise ValueError(message)
        self._port = port
        self._count = nodes
        self._directory = None if directory is None else Path(directory).absolute()
        self._overrides = dict(properties or {})
        self._timeout_seconds = timeout_seconds
        self._nodes: list[Node] = []
        self._properties: dict[int, dict[str, object]] = {}
        self._root: Path | None = None
        self._java = ""
        self._jars = Path()
        self._cluster_id = ""

    @property
    def bootstrap(self) -> str:
        """The addresses of all nodes, ``127.0.0.1:PORT[,127.0.0.1:PORT…]``."""
        return ",".join(node.address for node in self._nodes)

    @property
    def directory(self) -> Path | None:
        """Where the data is, or None while the broker is stopped."""
        return self._root

    def start(self) -> Self:
        """Start all nodes and return when every one of them serves clients.

        The first start on a machine fetches Kafka's jars. After a failure nothing is left running.
        """
        if self._nodes:
            message = f"the development broker already runs on {self.bootstrap}"
            raise SetupError(message)
        self._java = find_java()
        self._jars = jars_directory()
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                self._start_all()
            except BaseException as error:
                self.stop(orderly=False)
                ours = isinstance(error, PortTakenError) and self._port == 0
                if not ours or attempt == PORT_ATTEMPTS:
                    raise
            else:
                break
        return self

    def stop(self, *, orderly: bool = True) -> None:
        """Stop all nodes and, if it was temporary, remove the data; may be called again.

        Data that stays gets an orderly shutdown first; nodes that take too long are killed, from
        which Kafka recovers.
        """
        if orderly and self._directory is not None:
            for node in self._nodes:
                node.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            for node in self._nodes:
                node.wait(max(0.0, deadline - time.monotonic()))
        for node in self._nodes:
            node.kill()
        if self._directory is None and self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        self._nodes = []
        self._root = None

    def kill(self, node: int) -> None:
        """Kill a node (from 1) by SIGKILL and return when it is gone; its data and port stay.

        The controller takes it for dead after ``broker.session.timeout.ms`` (9 s unless set).
        """
        self._node(node).kill()

    def restart(self, node: int) -> None:
        """Start a killed node again, or stop and start a running one; returns when it serves."""
        chosen = self._node(node)
        if chosen.running:
            chosen.terminate()
            if not chosen.wait(STOP_SECONDS):
                chosen.kill()
        self._spawn(chosen)
        self._await_answer(chosen, time.monotonic() + self._timeout_seconds)

    def check_alive(self) -> None:
        """Raise a SetupError with the end of its log if a node ended that nobody killed."""
        for node in self._nodes:
            node.check_alive()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _node(self, number: int) -> Node:
        if not 1 <= number <= len(self._nodes):
            message = f"no node {number}: the broker has nodes 1 to {len(self._nodes)} running"
            raise ValueError(message)
        return self._nodes[number - 1]

    def _start_all(self) -> None:
        self._root = self._make_root()
        ports = _choose_ports(self._port, self._count)
        clients, controllers = ports[: self._count], ports[self._count :]
        voters = ",".join(f"{i}@{HOST}:{port}" for i, port in enumerate(controllers, 1))
        temporary = self._directory is None
        for i in range(1, self._count + 1):
            node = Node(i, clients[i - 1], self._root / f"node-{i}", temporary)
            self._nodes.append(node)
            self._properties[i] = node_properties(
                i, self._count, node.address, f"{HOST}:{controllers[i - 1]}", voters, node.folder
            )
            self._properties[i].update(self._overrides)
        known = next((x.cluster_id for x in self._nodes if x.cluster_id), None)
        self._cluster_id = known or _new_cluster_id()
        deadline = time.monotonic() + self._timeout_seconds
        for node in self._nodes:
            self._spawn(node)
        for node in self._nodes:
            self._await_answer(node, deadline)
        self._await_cluster(deadline)

    def _make_root(self) -> Path:
        if self._directory is None:
            return Path(tempfile.mkdtemp(prefix="eddy-broker-"))
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            found = len(list(self._directory.glob("node-*/data/meta.properties")))
        except OSError as error:
            message = f"cannot use the broker's data folder {self._directory}: {error}"
            raise SetupError(message) from error
        if found not in (0, self._count):
            message = (
                f"{self._directory} holds a cluster of {found} node(s), but {self._count} were "
                f"asked for: start it with {found}, or take an empty folder"
            )
            raise SetupError(message)
        return self._directory

    def _spawn(self, node: Node) -> None:
        node.spawn(self._java, self._jars, self._cluster_id, self._properties[node.number])

    def _await_answer(self, node: Node, deadline: float) -> None:
        while not node.answers(timeout_seconds=1.0):
            self.check_alive()
            if time.monotonic() > deadline:
                message = (
                    f"node {node.number} of the development broker at {node.address} does not "
                    f"answer after {self._timeout_seconds:.0f} s: free some CPU or memory and "
                    f"retry; the end of its log:\n{node.log_tail()}"
                )
                raise SetupError(message)
            node.pause(POLL_SECONDS)

    def _await_cluster(self, deadline: float) -> None:
        """Wait until an independent client sees a controller and all the nodes."""
        # imported late: it takes half a second, and `eddy --help` comes past this module
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        remaining_ms = max(1000, int(1000 * (deadline - time.monotonic())))
        seen: list[int] = []
        try:
            with KafkaAdminClient(
                bootstrap_servers=self.bootstrap.split(","), bootstrap_timeout_ms=remaining_ms
            ) as admin:
                while True:
                    cluster = admin.describe_cluster()
                    seen = [x["broker_id"] for x in cluster["brokers"] if not x.get("is_fenced")]
                    if len(seen) == self._count and cluster["controller_id"] in seen:
                        return
                    self.check_alive()
                    if time.monotonic() > deadline:
                        break
                    self._nodes[0].pause(POLL_SECONDS)
        except KafkaError as error:
            message = f"the development broker at {self.bootstrap} refused a client: {error!r}"
            raise SetupError(message) from error
        message = (
            f"after {self._timeout_seconds:.0f} s a client of {self.bootstrap} sees the nodes "
            f"{seen}, not all {self._count}: free some CPU or memory and retry"
        )
        raise SetupError(message)


def _choose_ports(first: int, count: int) -> list[int]:
    """Return the client ports and then the controller ports of ``count`` nodes."""
    chosen = list(range(first, first + count)) if first else []
    for port in chosen:
        if not port_is_free(port):
            message = (
                f"port {port} on {HOST} is in use, perhaps by another broker: stop that, or choose "
                "another port (0 takes any free one)"
            )
            raise SetupError(message)
    candidates = random.sample(PORT_RANGE, len(PORT_RANGE))
    free = (port for port in candidates if port not in chosen and port_is_free(port))
    while len(chosen) < 2 * count:
        chosen.append(next(free))
    return chosen


def _new_cluster_id() -> str:
    """Return a random id in Kafka's form: 16 bytes in base64 that do not begin with a dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        if not text.startswith("-"):  # it would read as an option of the format command
            return text
