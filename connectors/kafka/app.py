"""The faust application of a worker: one agent, which receives whole fetches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import faust
from faust.app.base import BootStrategy as FaustBootStrategy

from connectors.base import Fetch
from connectors.kafka.transport import Group, Transport
from schemas.config import Kafka

__all__ = ["App", "new_app"]

COMMIT_SECONDS = 1.0


class _Whole(faust.Schema):
    """Passes a message's value through as it is: an epoch and a fetch."""

    def compile(self, app: Any, **options: Any) -> Callable[..., Awaitable[Any]]:
        """Return the function that makes an event of a message."""

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return app.create_event(None, message.value, message.headers, message)

        return decode


class BootStrategy(FaustBootStrategy):
    """Starts no producer and no web server: we publish and answer ourselves."""

    enable_kafka_producer = False
    enable_web = False


class App(faust.App):
    """An application with our transport; :func:`new_app` sets its attributes."""

    BootStrategy = BootStrategy

    group: Group
    kafka: Kafka
    isolation_level: str

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    async def _producer_flush(self, logger: Any) -> None:
        """Flush nothing: faust's producer is not started."""

    def _create_directories(self) -> None:
        """Create none: faust would leave an empty folder where the worker was started."""


def new_app(
    config: Kafka,
    group_id: str,
    topics: list[str],
    group: Group,
    accept: Callable[[int, Fetch], None],
    isolation_level: str,
) -> App:
    """Build an application whose agent hands every fetch to ``accept``, with its epoch."""
    app = App(
        group_id,
        broker=[f"kafka://{server.strip()}" for server in config.bootstrap.split(",")],
        broker_client_id=f"eddy-{group_id}",
        broker_commit_interval=COMMIT_SECONDS,
        # faust compares these two; the consumer's own settings are made in the thread
        broker_session_timeout=10.0,
        broker_request_timeout=90.0,
        # the default spins with gc.collect() until messages are acknowledged, which ours never are
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    app.group = group
    app.kafka = config
    app.isolation_level = isolation_level

    @app.agent(app.topic(*topics, schema=_Whole()), name="fetches")
    async def receive(stream: Any) -> None:
        async for epoch, fetch in stream:
            accept(epoch, fetch)

    return app
