"""Connections that aiokafka would leave open: nothing is left behind when a client is ended.

A client that is cancelled while it looks for its cluster forgets the connection that it asks; and
a request that was under way when a client was closed may open another one behind its back.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from aiokafka import client

__all__ = ["close_what_is_left"]

_opened: ContextVar[list[Any] | None] = ContextVar("opened", default=None)
_create = client.create_conn
_Client = client.AIOKafkaClient
_bootstrap, _close, _get = _Client.bootstrap, _Client.close, _Client._get_conn  # noqa: SLF001


async def _noted(*arguments: Any, **named: Any) -> Any:
    """Open a connection, and note it for whoever looks for a cluster."""
    connection = await _create(*arguments, **named)
    opened = _opened.get()
    if opened is not None:
        opened.append(connection)
    return connection


async def _bootstrapped(self: Any) -> None:
    opened: list[Any] = []
    token = _opened.set(opened)
    try:
        await _bootstrap(self)
    except BaseException:
        for connection in opened:
            connection.close()
        raise
    finally:
        _opened.reset(token)


async def _closed(self: Any) -> None:
    self.is_closed = True
    await _close(self)


async def _got(self: Any, *arguments: Any, **named: Any) -> Any:
    connection = await _get(self, *arguments, **named)
    if connection is not None and getattr(self, "is_closed", False):
        connection.close()
        return None  # as if the node did not answer
    return connection


def close_what_is_left() -> None:
    """Let all aiokafka clients of this process do so; idempotent."""
    client.create_conn = _noted
    _Client.bootstrap, _Client.close, _Client._get_conn = (  # noqa: SLF001
        _bootstrapped,
        _closed,
        _got,
    )
