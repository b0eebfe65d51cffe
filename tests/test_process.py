"""A worker's process before there is a worker: it waits, says what for, and can be stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.broker import Broker
from tests.kafka_support import eventually
from tests.pipelines import document
from tests.test_cli import eddy


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def probe(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@contextmanager
def running(
    folder: Path, command: str, port: int, **more: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A command on a broker that is not there; its log goes to a file."""
    pipeline = folder / "pipeline.json"
    made = document() | {"kafka": {"bootstrap": "127.0.0.1:1"}} | more
    pipeline.write_bytes(msgspec.json.encode(made))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "agents", command, str(pipeline), "--port", str(port)],
            stderr=log,
            stdout=log,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def stopped(process: subprocess.Popen[bytes]) -> float:
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(11) == 0
    return time.monotonic() - began


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_storage_that_is_away_is_waited_for(tmp_path: Path, command: str) -> None:
    blocked, port = tmp_path / "mount", free_port()
    blocked.write_text("not a directory")
    with running(tmp_path, command, port, storage=str(blocked / "eddy")) as process:
        assert eventually(lambda: f"storage {blocked}/eddy" in probe(port, "readyz")[1])
        assert probe(port, "readyz")[0] == 503
        assert probe(port, "healthz")[0] == 200
        assert probe(port, "metrics")[0] == 200
        blocked.unlink()
        assert eventually(lambda: "no broker answers" in probe(port, "readyz")[1])
        assert stopped(process) < 10
    assert '"waiting"' in (tmp_path / "log").read_text()


def test_sigterm_ends_a_process_that_waits_for_its_storage(tmp_path: Path) -> None:
    blocked, port = tmp_path / "mount", free_port()
    blocked.write_text("not a directory")
    with running(tmp_path, "run", port, storage=str(blocked / "eddy")) as process:
        assert eventually(lambda: "storage" in probe(port, "readyz")[1])
        assert stopped(process) < 5


def test_sigterm_ends_a_process_whose_storage_hangs(tmp_path: Path) -> None:
    pipe, port = tmp_path / "storage" / "storage-id", free_port()
    pipe.parent.mkdir()
    os.mkfifo(pipe)  # whoever reads it waits for a writer
    with running(tmp_path, "run", port, storage=str(pipe.parent)) as process:
        assert eventually(lambda: probe(port, "readyz")[0] == 503)
        time.sleep(1.0)
        assert stopped(process) < 10


@pytest.mark.broker
def test_the_stages_of_a_process_stop_side_by_side(
    broker: Broker, topic_name: str, tmp_path: Path
) -> None:
    port = free_port()
    made = {
        "name": topic_name,
        "kafka": {"bootstrap": broker.bootstrap},
        "storage": str(tmp_path / "storage"),
        "streams": document(source={"topic": topic_name}, key_partitioned=False)["streams"],
    }
    with running(tmp_path, "run", port, **made) as process:
        assert eventually(lambda: "there is no topic" in probe(port, "readyz")[1])
        created = eddy("topics", tmp_path / "pipeline.json", "--create")
        assert created.returncode == 0, created.stderr
        assert eventually(lambda: probe(port, "readyz")[0] == 200)
        assert stopped(process) < 9.5
    log = (tmp_path / "log").read_text()
    assert log.count('"reading"') == 2
    assert "without goodbye" not in log
