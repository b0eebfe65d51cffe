"""One node of the development cluster: its folder, its configuration, its process."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import SetupError

__all__ = ["HOST", "Node", "PortTakenError", "port_is_free"]

HOST = "127.0.0.1"  # never a listener that another machine can reach

# What the JVM gets. Serial collection and only the quick compiler: several nodes share a
# laptop with the pipeline that is being tried. Half a GiB holds a broker with hundreds of
# partitions; a node that runs out must die visibly instead of limping.
JVM_FLAGS = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
)

TAIL_LINES = 20

_CORRELATION_ID = 17
# ApiVersions version 0: api key 18, version 0, correlation id, client id "eddy". Every broker
# since Kafka 0.10 answers it, whatever else it speaks.
_PROBE = struct.pack(">hhih4s", 18, 0, _CORRELATION_ID, 4, b"eddy")


class PortTakenError(SetupError):
    """A node ended because somebody else listens on its port."""


@dataclass
class Node:
    """A combined controller and broker in a folder of its own.

    Attributes
    ----------
    number
        Its ``node.id``, from 1.
    port
        Where clients reach it on loopback.
    folder
        Holds ``server.properties``, ``server.log`` and ``data/``.
    temporary
        Whether the guard removes the folder when this process vanishes.
    """

    number: int
    port: int
    folder: Path
    temporary: bool
    _guard: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """The client address, ``127.0.0.1:PORT``."""
        return f"{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process of the node is there, ready or not."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def started(self) -> bool:
        """Whether the node was started and not stopped on purpose since."""
        return self._guard is not None

    @property
    def cluster_id(self) -> str | None:
        """The cluster that the folder was formatted for, or None before the first start."""
        try:
            lines = (self.folder / "data" / "meta.properties").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return None
        return next((x.partition("=")[2] for x in lines if x.startswith("cluster.id=")), None)

    def spawn(
        self, java: str, jars: Path, cluster_id: str, properties: Mapping[str, object]
    ) -> None:
        """Start the node's process, formatting its folder first if new; does not wait for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "server.properties"
        config.write_text("".join(f"{k}={v}\n" for k, v in properties.items()), "utf-8")
        log_config = Path(__file__).with_name("log4j2.properties")
        jvm = [java, *JVM_FLAGS, f"-Dlog4j2.configurationFile={log_config}", "-cp", f"{jars}/*"]
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))]
        command += [str(os.getpid()), str(self.folder) if self.temporary else "-"]
        if self.cluster_id is None:
            tool = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(config)]
            command += [*jvm, *tool, "--"]
        command += [*jvm, "kafka.Kafka", str(config)]
        with (self.folder / "server.log").open("ab") as log:
            self._guard = subprocess.Popen(  # noqa: S603 (a fixed command; the paths are ours)
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                # Ctrl-C at a terminal reaches only us, so that we decide the order of the shutdown
                start_new_session=True,
            )

    def answers(self, timeout_seconds: float) -> bool:
        """Ask the node for its API versions; False when it does not answer yet.

        A KRaft broker serves its client listener only after the controller let it in, so an answer
        means that this node takes part in the cluster.
        """
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1.0) as peer:
            peer.settimeout(timeout_seconds)
            peer.sendall(struct.pack(">i", len(_PROBE)) + _PROBE)
            head = peer.recv(8, socket.MSG_WAITALL)
            return len(head) == 8 and struct.unpack(">ii", head)[1] == _CORRELATION_ID
        return False

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the process of the node lives."""
        if self._guard is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(seconds)

    def terminate(self) -> None:
        """Ask the node for an orderly shutdown; does not wait for it."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the node at once, as a power cut would, and wait until it is gone."""
        self._signal(signal.SIGUSR1)
        if self._guard is not None:
            self._guard.wait()
        self._guard = None

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for the node to end after :meth:`terminate`; False when it did not in time."""
        self.pause(timeout_seconds)
        if self.running:
            return False
        self._guard = None
        return True

    def check_alive(self) -> None:
        """Raise a SetupError with the end of the node's log if the node ended by itself."""
        if self._guard is not None and self._guard.poll() is not None:
            tail = self.log_tail()
            message = (
                f"node {self.number} of the development broker ended by itself (exit code "
                f"{self._guard.returncode}, folder {self.folder}); the end of its log:\n{tail}"
            )
            raise (PortTakenError if "Address already in use" in tail else SetupError)(message)

    def log_tail(self) -> str:
        """Return the last lines of the node's log."""
        try:
            text = (self.folder / "server.log").read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def remove(self) -> None:
        """Remove the folder of the node with its data."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._guard is not None:
            self._guard.send_signal(number)


def port_is_free(port: int) -> bool:
    """Tell whether a listener could take the loopback port now."""
    with socket.socket() as probe:
        # as Kafka does: a port whose old connections linger is free for a listener
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
