"""``eddy run`` and ``eddy train``: the processes that stay."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import click
import structlog

from agents.monitor import Monitor, serve_monitor
from agents.options import pipeline_argument
from connectors.kafka.admin import identify, topic_ends
from connectors.kafka.worker import KafkaWorker
from connectors.storage import Storage
from schemas.config import Pipeline as Config
from schemas.topics import Topics

log = structlog.get_logger(__name__)

_PORT = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port of /healthz, /readyz and /metrics; 0 serves none.",
)


@click.command()
@pipeline_argument
@_PORT
def run(config: Config, port: int) -> None:
    """Window, score and alert: the worker.

    Start as many as there are partitions at most; they share the partitions. Without a model a
    worker archives records, asks for a model and counts windows as unscored. Stops on SIGTERM.

    \b
    Example:
      eddy run examples/transactions.yaml
    """  # noqa: D301 (click keeps the lines after a real backspace as they are)
    from agents.rekey import RekeyHandler
    from agents.serve import PipelineHandler

    monitor, storage = Monitor(), Storage(config.storage)
    handler = PipelineHandler(
        config,
        storage,
        monitor=monitor,
        identify=partial(identify, config.kafka),
        look=partial(topic_ends, config.kafka),
    )
    topics = handler.pipeline.topics
    worker = KafkaWorker(
        config.kafka,
        topics.worker_group,
        handler.pipeline.input_topics,
        handler,
        batch=config.scoring.batch,
        deadline_seconds=int(config.scoring.deadline) / 1e9,
        follow={topics.models: handler.follow_models},
        exactly_once=config.delivery == "exactly_once",
    )
    workers = [worker]
    for name, stream in config.streams.items():
        if stream.key_partitioned:
            continue
        stage: list[KafkaWorker] = []
        rekey = RekeyHandler(config, name, lambda stage=stage: stage[0].exhausted())  # type: ignore[misc]
        stage.append(
            KafkaWorker(config.kafka, topics.rekey_group(name), [stream.source.topic], rekey)
        )
        workers += stage
    _serve(workers, monitor, port)


@click.command()
@pipeline_argument
@_PORT
def train(config: Config, port: int) -> None:
    """Answer retraining requests with new models: the trainer.

    Trains from the archive that the workers write, saves the model to the storage and announces it;
    workers let it speak without a restart. One trainer is enough.

    \b
    Example:
      eddy train examples/transactions.yaml
    """  # noqa: D301
    from agents.train import Trainer

    trainer = Trainer(config, Storage(config.storage))
    topics = Topics(config.name)
    worker = KafkaWorker(config.kafka, f"{config.name}.trainer", [topics.retrain], trainer, batch=1)
    _serve([worker], Monitor(), port)


def _serve(workers: list[KafkaWorker], monitor: Monitor, port: int) -> None:
    """Run workers of one process until the first is told to stop, then stop all."""

    def probe() -> tuple[bool, bool, str]:
        states = [worker.status() for worker in workers]
        reason = "; ".join(s.reason for s in states if s.reason)
        return all(s.ready for s in states), all(s.healthy for s in states), reason

    server = serve_monitor(monitor, probe, port) if port else None
    try:
        asyncio.run(_together(workers))
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()


async def _together(workers: list[KafkaWorker]) -> None:
    first, *others = workers
    tasks = [asyncio.create_task(worker.main()) for worker in others]
    for task, worker in zip(tasks, others, strict=True):
        task.add_done_callback(lambda _: first.stop())
        log.debug("stage started", worker=repr(worker))
    try:
        await first.main(process=True)
    finally:
        for worker in others:
            worker.stop()
        with contextlib.suppress(asyncio.CancelledError):
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome
