"""The chaos suite's network: it passes everything, or nothing, and loses nothing."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import HOST, Proxies

SECONDS = 10.0


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    with socketserver.ThreadingTCPServer((HOST, 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.server_address[1]
        made = Proxies([port, port]).start()
        yield made
        made.stop()
        server.shutdown()
        thread.join()


def connect(proxies: Proxies, number: int) -> socket.socket:
    return socket.create_connection((HOST, proxies.ports[number - 1]), SECONDS)


def received(peer: socket.socket, size: int) -> bytes:
    """Return the next ``size`` bytes: with a time-out set, a socket may give fewer at a time."""
    parts: list[bytes] = []
    while size and (part := peer.recv(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def echoed(peer: socket.socket, data: bytes) -> bytes:
    peer.sendall(data)
    return received(peer, len(data))


def test_a_stall_holds_up_one_way_and_loses_nothing(proxies: Proxies) -> None:
    with connect(proxies, 1) as first, connect(proxies, 2) as second:
        assert echoed(first, b"a" * 100_000) == b"a" * 100_000
        proxies.stall(1)
        assert echoed(second, b"other") == b"other"
        first.sendall(b"waits")
        first.settimeout(0.3)
        with pytest.raises(TimeoutError):
            first.recv(5)
        first.settimeout(SECONDS)
        proxies.resume(1)
        assert received(first, 5) == b"waits"


def test_a_connection_made_during_a_stall_of_all_comes_about_later(proxies: Proxies) -> None:
    proxies.stall(0)
    with connect(proxies, 2) as peer:
        peer.sendall(b"early")
        proxies.resume(0)
        assert received(peer, 5) == b"early"


def test_an_end_is_passed_on(proxies: Proxies) -> None:
    with connect(proxies, 1) as peer:
        assert echoed(peer, b"x") == b"x"
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""
