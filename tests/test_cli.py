"""The commands as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agents.cli import foreign_owners
from detectors import CATALOGUE
from tests.pipelines import document, payments


def eddy(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agents", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    made = {**document(), "storage": str(tmp_path / "storage")}
    path.write_bytes(msgspec.json.encode(made))
    return path


def test_fit_then_replay_balances_and_writes_every_event(pipeline: Path, tmp_path: Path) -> None:
    history, today = tmp_path / "history.jsonl", tmp_path / "today.jsonl"
    history.write_bytes(b"\n".join(payments(2000, seed=1)))
    today.write_bytes(b"\n".join([*payments(500, seed=2), b"{bad"]))
    fitted = eddy("fit", pipeline, "--input", history, "--json")
    assert fitted.returncode == 0, fitted.stderr
    scored, report = tmp_path / "scored.jsonl", tmp_path / "report.json"
    replayed = eddy("replay", pipeline, "-i", today, "--output", scored, "--report", report)
    assert replayed.returncode == 0, replayed.stderr
    found = json.loads(report.read_text())
    assert (found["records_in"], found["windowed"], found["dead_letters"]) == (501, 500, 1)
    assert found["scored"] == found["windows"] == len(scored.read_text().splitlines())
    model_id = json.loads(fitted.stdout)[0]["model_id"]
    assert json.loads(scored.read_text().splitlines()[0])["model_id"] == model_id
    listed = eddy("models", pipeline, "--json")
    assert json.loads(listed.stdout)[0] == {
        "stream": "payments",
        "route": "pca",
        "model_id": model_id,
        "champion": True,
    }


def test_a_model_for_other_windows_is_refused(pipeline: Path, tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_bytes(b"\n".join(payments(500, seed=1)))
    assert eddy("fit", pipeline, "--input", history).returncode == 0
    changed = json.loads(pipeline.read_text())
    changed["streams"]["payments"]["window"]["size"] = 5
    pipeline.write_text(json.dumps(changed))
    refused = eddy("replay", pipeline, "--input", history)
    assert refused.returncode == 1
    assert "was made for steps = 4, the pipeline has 5" in refused.stderr


def test_a_tampered_model_is_refused(pipeline: Path, tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_bytes(b"\n".join(payments(500, seed=1)))
    assert eddy("fit", pipeline, "--input", history).returncode == 0
    weights = next((tmp_path / "storage").rglob("weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    refused = eddy("replay", pipeline, "--input", history)
    assert refused.returncode == 1
    assert "the file was altered" in refused.stderr


def test_a_wrong_file_exits_with_2_and_says_what_to_change(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(msgspec.json.encode(document(window={"size": "big"})))
    wrong = eddy("validate", path)
    assert wrong.returncode == 2
    assert wrong.stderr.strip() == (
        'eddy: streams.payments.window.size: expected int ≥ 1, got "big"'
    )


def test_validate_shows_what_will_run() -> None:
    shown = eddy("validate", "examples/transactions.yaml")
    assert shown.returncode == 0, shown.stderr
    assert "valid" in shown.stdout


def test_schema_and_detectors_speak_json() -> None:
    schema = json.loads(eddy("schema", "ScoredEvent").stdout)
    assert "event_id" in schema["$defs"]["ScoredEvent"]["properties"]
    listed = json.loads(eddy("detectors", "--json").stdout)
    assert set(CATALOGUE) == {row["name"] for row in listed}


def test_the_demonstration_runs_without_kafka() -> None:
    shown = eddy("demo", "flows", "--memory", "--records", 30_000, "--json")
    assert shown.returncode == 0, shown.stderr
    stream = json.loads(shown.stdout)["streams"][0]
    assert stream["balanced"]
    assert stream["renewed"]
    assert stream["account"]["dead_letter"] == 4
    assert stream["account"]["duplicate"] == 3


def test_no_other_distribution_owns_our_packages() -> None:
    assert foreign_owners() == {}
