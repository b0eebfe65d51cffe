"""Card transactions over a real broker: what a worker publishes is what replay computes.

Fitted on the first 60 days without their labels; the rest goes over the broker as JSON, with the
customer as the key and without one. Times are made distinct within a second: records of one time
have no order in a topic that is not keyed by entity.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas.config import Kafka
from schemas.messages import ScoredEvent
from tests.realdata.loading import read
from tests.running import by_id, consume, wait_for, worker
from tests.test_cli import eddy

pytestmark = [pytest.mark.data, pytest.mark.broker, pytest.mark.slow]

FIT_DAYS = 60
PARTITIONS = 4
PATIENCE = 900.0
FATES = ("windowed", "late", "duplicate", "dead_letter", "filtered")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """Files of the days to fit on and of the days to judge, and how many records the latter has."""
    columns = read("transactions_simulated/transactions")
    seconds = np.array(columns["TX_TIME_SECONDS"])
    within = np.arange(len(seconds)) - np.searchsorted(seconds, seconds)  # in time order
    rows = zip(
        columns["TRANSACTION_ID"],
        columns["CUSTOMER_ID"],
        columns["TERMINAL_ID"],
        columns["TX_AMOUNT"],
        (1_522_540_800_000 + seconds * 1000 + within).tolist(),
        strict=True,
    )
    names = ("id", "customer", "terminal", "amount", "time")
    lines = [msgspec.json.encode(dict(zip(names, row, strict=True))) for row in rows]
    days = int(np.searchsorted(np.array(columns["TX_TIME_DAYS"]), FIT_DAYS))
    folder = tmp_path_factory.mktemp("transactions")
    before, after = folder / "before.jsonl", folder / "after.jsonl"
    before.write_bytes(b"\n".join(lines[:days]))
    after.write_bytes(b"\n".join(lines[days:]))
    return before, after, len(lines) - days


def pipeline_file(broker: Kafka, name: str, folder: Path, *, keyed: bool) -> Path:
    stream: dict[str, Any] = {
        "source": {"topic": name},
        "key": "customer",
        "key_partitioned": keyed,
        "id": "id",
        "time": {"field": "time", "unit": "ms"},
        "fields": {"amount": {"type": "number", "transform": "log1p"}, "terminal": "category"},
        "derive": ["gap", "time_of_day"],
        "window": {"kind": "sliding", "size": 8},
        "detectors": ["lstm_ae"],
        "emit": "all",
    }
    document = {
        "name": name,
        "kafka": {"bootstrap": broker.bootstrap},
        "storage": str(folder / "storage"),
        "partitions": PARTITIONS,
        "streams": {"cards": stream},
    }
    path = folder / "pipeline.json"
    path.write_bytes(msgspec.json.encode(document))
    return path


def succeed(*arguments: object) -> None:
    done = eddy(*arguments, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "keyless"])
def test_a_worker_publishes_what_replay_computes(
    broker: Kafka,
    topic_name: str,
    tmp_path: Path,
    history: tuple[Path, Path, int],
    show: Callable[[str], None],
    keyed: bool,
) -> None:
    before, after, records = history
    pipeline = pipeline_file(broker, topic_name, tmp_path, keyed=keyed)
    succeed("fit", pipeline, "-i", before, "--seconds", 60)
    succeed("topics", pipeline, "--create")
    succeed("produce", pipeline, "-i", after, *([] if keyed else ["--no-key"]))
    with worker(pipeline):
        accounts = wait_for(broker.bootstrap, f"{topic_name}.accounts", records, PATIENCE)
    assert sum(account.records_in for account in accounts) == records
    for account in accounts:
        assert account.records_in == sum(getattr(account, fate) for fate in FATES)
    published = by_id(consume(broker.bootstrap, f"{topic_name}.cards.scored"))
    scored = tmp_path / "scored.jsonl"
    succeed("replay", pipeline, "-i", after, "--partitions", PARTITIONS, "--output", scored)
    expected = by_id(scored.read_bytes().splitlines())
    show(f"{records:,} records, {len(published):,} events, " + compared(published, expected))


def compared(published: dict[str, ScoredEvent], expected: dict[str, ScoredEvent]) -> str:
    """Check that the events are the same ones, and tell how close their scores are."""
    assert published.keys() == expected.keys()
    pairs = [(published[event_id], event) for event_id, event in expected.items()]
    for found, event in pairs:
        assert (found.key, found.partition) == (event.key, event.partition)
        assert (found.window_start, found.window_end) == (event.window_start, event.window_end)
    scores = np.array([(found.score, event.score) for found, event in pairs])
    np.testing.assert_allclose(scores[:, 0], scores[:, 1], rtol=1e-5, atol=1e-6)
    anomalies = np.array([(found.is_anomaly, event.is_anomaly) for found, event in pairs])
    differing = int((anomalies[:, 0] != anomalies[:, 1]).sum())
    assert differing == 0, f"{differing} verdicts differ"
    assert anomalies.any()
    distance = np.abs(scores[:, 0] / scores[:, 1] - 1).max()
    return f"{int(anomalies[:, 0].sum()):,} anomalies in both, scores within {distance:.1e}"
