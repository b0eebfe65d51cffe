"""What is secret in a pipeline file stays out of every message, log and answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors.broker import Broker
from connectors.storage import Storage, without_credentials
from schemas.errors import ConfigError, EddyError
from schemas.parse import load_pipeline
from tests.kafka_support import eventually
from tests.pipelines import document
from tests.test_process import free_port, probe, running, stopped

SECRET = "tops3cret/Key+x"
QUOTED = "tops3cret%2FKey%2Bx"
TRACES = ("tops3cret", "Key+x", "Key%2Bx", "AKIAUSER")


def told(text: str) -> list[str]:
    return [trace for trace in TRACES if trace in text]


def made(**kafka: Any) -> dict[str, Any]:
    return document() | {"kafka": kafka}


WRONG: dict[str, Any] = {
    "settings are a text": made(settings=f"sasl_plain_password={SECRET}"),
    "a list": made(settings=[SECRET]),
    "a nested password": made(settings={"sasl_plain_password": {"value": SECRET}}),
    "kafka is a text": document() | {"kafka": SECRET},
    "kafka is a list": document() | {"kafka": [SECRET]},
    "storage is a list": document() | {"storage": [f"s3://AKIAUSER:{SECRET}@bucket"]},
    "an unknown setting": made(settings={"sasl_plain_pasword": SECRET}),
    "an unknown key": document() | {"kafka": {"sasl_plain_password": SECRET}},
    "an unknown protocol": made(
        settings={"security_protocol": "SASL_PLAIN", "sasl_plain_password": SECRET}
    ),
    "a missing file": made(
        settings={"security_protocol": "SSL", "ssl_cafile": "/no", "sasl_plain_password": SECRET}
    ),
    "an unknown scheme": document() | {"storage": f"ftp://AKIAUSER:{SECRET}@host/x"},
    "no such bucket": document() | {"storage": f"s3://AKIAUSER:{SECRET}@/x"},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_tells_no_secret(tmp_path: Path, wrong: str) -> None:
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(yaml.safe_dump(WRONG[wrong]))
    outcome = subprocess.run(
        [sys.executable, "-m", "agents", "topics", str(pipeline)]
        if "storage" not in WRONG[wrong]
        else [sys.executable, "-m", "agents", "models", str(pipeline)],
        capture_output=True,
        text=True,
    )
    assert outcome.returncode in (1, 2)
    assert outcome.stderr
    assert told(outcome.stdout + outcome.stderr) == []


@pytest.mark.parametrize(
    "text",
    [
        f"kafka: {{settings: {{sasl_plain_password: '{SECRET}}}}}\nstreams: {{}}",
        f"kafka:\n  settings:\n    sasl_plain_password: {SECRET}: x\n",
        f"password: *{SECRET}\n",
        f"password: !{SECRET} x\n",
        f"password: '{SECRET}\n",
        f"{SECRET}: 1\n  {SECRET}: 2",
        f"kafka: '{SECRET}\x00'",
    ],
)
def test_a_file_that_is_no_yaml_is_not_quoted(tmp_path: Path, text: str) -> None:
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_pipeline(pipeline)
    assert "not valid YAML" in str(caught.value)
    chain = [str(caught.value), str(caught.value.__cause__)]
    assert told("".join(chain)) == []


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
        (f"s3://AKIAUSER:{QUOTED}@bucket/x?region=eu", "s3://bucket/x"),
        (f"s3://AKIAUSER:{SECRET}@bucket/x", "s3://bucket/x"),
        ("s3://AKIAUSER:a@b@bucket/x", "s3://bucket/x"),
        ("s3://AKIAUSER@bucket/x", "s3://bucket/x"),
        ("/data/a@b", "/data/a@b"),
        ("gs://bucket/x?retry_limit_seconds=1", "gs://bucket/x"),
    ],
)
def test_storages_are_shown_without_credentials(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


@pytest.mark.parametrize("secret", [SECRET, QUOTED])
def test_a_storage_that_cannot_be_reached_tells_no_secret(secret: str) -> None:
    options = "endpoint_override=127.0.0.1%3A1&scheme=http&region=x&allow_bucket_creation=false"
    with pytest.raises(EddyError) as caught:
        Storage(f"s3://AKIAUSER:{secret}@bucket/x?{options}").list()
    assert told(f"{caught.value!r} {caught.value.__cause__!r}") == []


@pytest.mark.broker
def test_a_worker_tells_no_secret(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDDY_SECRET", SECRET)
    kafka = {
        "bootstrap": broker.bootstrap,
        "settings": {
            "security_protocol": "SASL_PLAINTEXT",  # which this broker does not speak
            "sasl_plain_username": "AKIAUSER",
            "sasl_plain_password": "${EDDY_SECRET}",
        },
    }
    port = free_port()
    storage = str(tmp_path / "storage")
    with running(tmp_path, "run", port, kafka=kafka, storage=storage) as process:
        assert eventually(lambda: "no broker answers" in probe(port, "readyz")[1])
        answers = [probe(port, path)[1] for path in ("readyz", "healthz", "metrics", "")]
        stopped(process)
    log = (tmp_path / "log").read_text()
    assert "no broker answers" in log
    assert told(log + "".join(answers)) == []
    pipeline = str(tmp_path / "pipeline.json")
    for command in (["topics", pipeline, "--create"], ["validate", pipeline, "--json"]):
        outcome = subprocess.run(
            [sys.executable, "-m", "agents", "--verbose", *command], capture_output=True, text=True
        )
        assert told(outcome.stdout + outcome.stderr) == []
