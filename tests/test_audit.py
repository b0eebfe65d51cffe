"""The audit balances whatever happened to the workers, and finds whatever does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.audit import Audit
from connectors.base import Output
from connectors.broker import Broker
from schemas.parse import load_pipeline
from tests.kafka_support import fill
from tests.pipelines import document, payments
from tests.running import killed, wait_for, wait_for_messages, worker
from tests.test_cli import eddy

pytestmark = pytest.mark.broker

RECORDS = 6_000
PATIENCE = 90.0


def numbered(count: int, seed: int) -> list[bytes]:
    """Records with ids; some repeated, some broken, some out of the ordinary."""
    found = []
    for i, value in enumerate(payments(count, seed, cards=30)):
        odd = {"amount": 5000.0} if i % 300 == 200 else {}
        record = msgspec.json.encode({**msgspec.json.decode(value), "number": f"n{i}", **odd})
        found += [record] * (2 if i % 50 == 7 else 1)
        if i % 100 == 3:
            found.append(b'{"card": "card-1", "ts": "never"}' if i % 200 == 3 else b"{" + record)
    return found


def pipeline_file(broker: Broker, name: str, folder: Path, **stream: Any) -> Path:
    stream = {"source": {"topic": f"{name}.in"}, "id": "number", "archive": False, **stream}
    made = document(**stream) | {
        "name": name,
        "kafka": {"bootstrap": broker.bootstrap},
        "storage": str(folder / "storage"),
        "partitions": 2,
        "checkpoints": {"every": "500ms"},
    }
    path = folder / f"{name}.json"
    path.write_bytes(msgspec.json.encode(made))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "keyless"])
def test_a_killed_worker_leaves_everything_accounted_for(
    broker: Broker, topic_name: str, tmp_path: Path, keyed: bool
) -> None:
    pipeline = pipeline_file(broker, topic_name, tmp_path, key_partitioned=keyed)
    history, today = tmp_path / "history.jsonl", tmp_path / "today.jsonl"
    history.write_bytes(b"\n".join(payments(2000, seed=1)))
    values = numbered(RECORDS, seed=2)
    today.write_bytes(b"\n".join(values))
    assert eddy("fit", pipeline, "-i", history).returncode == 0
    assert eddy("topics", pipeline, "--create").returncode == 0
    options = [] if keyed else ["--no-key"]
    assert eddy("produce", pipeline, "-i", today, *options).returncode == 0
    config = load_pipeline(pipeline)
    tombstones: list[Any] = [Output(f"{topic_name}.in", b"card-1", None)] * 3  # type: ignore[arg-type]
    fill(config.kafka, f"{topic_name}.in", tombstones)
    total = len(values) + (3 if keyed else 0)  # re-keying drops them
    with killed(pipeline):
        wait_for_messages(broker.bootstrap, f"{topic_name}.payments.scored", 1000, PATIENCE)
    with worker(pipeline):
        wait_for(broker.bootstrap, f"{topic_name}.accounts", total, PATIENCE)
    done = eddy("audit", pipeline, "--json")
    found = msgspec.json.decode(done.stdout, type=Audit)
    assert (done.returncode, found.problems) == (0, []), done.stdout
    assert found.balanced
    assert sum(row.records for row in found.partitions) >= total
    assert sum(row.dead_letters for row in found.partitions) == RECORDS // 100
    assert sum(row.letters for row in found.partitions) == RECORDS // 100
    assert sum(row.filtered for row in found.partitions) == (3 if keyed else 0)
    assert {row.account is not None for row in found.partitions} == {True}
    shown = eddy("audit", pipeline)
    assert shown.returncode == 0
    assert "everything balances" in shown.stdout
