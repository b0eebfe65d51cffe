"""A network that can be stalled: TCP proxies between the workers and the brokers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Self

HOST = "127.0.0.1"
CHUNK = 1 << 16
START_SECONDS = 10.0


Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


class Proxies:
    """One proxy per target port, all in one thread; the first is number 1.

    A stalled proxy takes connections and bytes and passes nothing on, as a network does that
    loses every packet.
    """

    def __init__(self, targets: list[int]) -> None:
        self._targets = targets
        self._loop = asyncio.new_event_loop()
        self._gates: list[asyncio.Event] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self.ports: list[int] = []

    def start(self) -> Self:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(START_SECONDS)
        return self

    def stop(self) -> None:
        """Close everything."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    def stall(self, number: int) -> None:
        """Let nothing through any more; 0 is all."""
        for gate in self._chosen(number):
            self._loop.call_soon_threadsafe(gate.clear)

    def resume(self, number: int) -> None:
        """Let everything through, also what has waited; 0 is all."""
        for gate in self._chosen(number):
            self._loop.call_soon_threadsafe(gate.set)

    def _chosen(self, number: int) -> list[asyncio.Event]:
        return self._gates if number == 0 else [self._gates[number - 1]]

    async def _start(self) -> None:
        for target in self._targets:
            gate = asyncio.Event()
            gate.set()
            server = await asyncio.start_server(self._handler(target, gate), HOST, 0)
            self._gates.append(gate)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _handler(self, target: int, gate: asyncio.Event) -> Accept:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(_connect(target, gate, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept


async def _connect(
    target: int, gate: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one connection until either side ends it."""
    writers = [writer]
    try:
        await gate.wait()
        back, forth = await asyncio.open_connection(HOST, target)
        writers.append(forth)
        pumps = [
            asyncio.ensure_future(_pump(reader, forth, gate)),
            asyncio.ensure_future(_pump(back, writer, gate)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
    except OSError:
        pass  # the broker is away: so is the connection
    finally:
        for each in writers:
            with contextlib.suppress(OSError, RuntimeError):
                each.close()


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event
) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK):
            await gate.wait()
            sink.write(data)
            await sink.drain()
