"""``eddy run`` and ``eddy train``: the processes that stay."""

from __future__ import annotations

import socket
from functools import partial

import click

from agents.monitor import Monitor
from agents.options import pipeline_argument
from agents.process import serve_workers
from connectors.kafka.admin import identify, topic_ends
from connectors.kafka.memo import Keeping
from connectors.kafka.worker import KafkaWorker
from connectors.storage import Storage
from detectors.device import pick_device
from schemas.config import Pipeline as Config
from schemas.topics import Topics

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

    pick_device(config.scoring.device)  # it does not come by waiting
    monitor = Monitor()

    def workers() -> list[KafkaWorker]:
        storage = Storage(config.storage)
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
            keeping=Keeping(storage.identify(), f"{storage.uri} on {socket.gethostname()}"),
        )
        stages = [worker]
        for name, stream in config.streams.items():
            if stream.key_partitioned:
                continue
            stage: list[KafkaWorker] = []
            rekey = RekeyHandler(config, name, lambda stage=stage: stage[0].exhausted())  # type: ignore[misc]
            group = topics.rekey_group(name)
            stage.append(KafkaWorker(config.kafka, group, [stream.source.topic], rekey))
            stages += stage
        return stages

    serve_workers(workers, monitor, port)


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

    pick_device(config.scoring.device)
    topics = Topics(config.name)

    def workers() -> list[KafkaWorker]:
        trainer = Trainer(config, Storage(config.storage))
        group = f"{config.name}.trainer"
        return [KafkaWorker(config.kafka, group, [topics.retrain], trainer, batch=1)]

    serve_workers(workers, Monitor(), port)
