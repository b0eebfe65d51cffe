"""Raw HDFS lines over a real broker: every line in the session of its block, with its template.

How anomalous the sessions are is measured on whole ones (``test_logs.py``): these are cut off after
20,000 lines, and until then all but a few of the 24 anomalous ones have the events of normal ones.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agents.registry import Registry
from agents.templates import TemplateMatcher
from connectors.partitioner import partitions_of
from connectors.storage import Storage
from schemas.config import Kafka
from tests.realdata.loading import read
from tests.running import by_id, consume, wait_for, worker
from tests.test_cli import eddy

pytestmark = [pytest.mark.data, pytest.mark.broker, pytest.mark.slow]

PARTITIONS = 4
PATIENCE = 300.0
BLOCK = re.compile(rb"blk_-?\d+")
PATTERN = (
    r"^(?P<time>\d{6} \d{6}) \d+ (?P<level>[A-Z]+) (?P<component>\S+): "
    r"(?P<message>.*?(?P<block>blk_-?\d+).*)$"
)


def raw_lines() -> list[bytes]:
    root = Path(os.environ.get("EDDY_DATA", ""), "hdfs")
    if not (root / "HDFS_first20000.log.gz").is_file():
        pytest.skip("EDDY_DATA does not name a folder with hdfs/HDFS_first20000.log.gz")
    return gzip.decompress((root / "HDFS_first20000.log.gz").read_bytes()).splitlines()


def block_of(line: bytes) -> str:
    """The block that a line is about, found without the pipeline's pattern."""
    match = BLOCK.search(line)
    assert match is not None
    return match.group().decode()


def pipeline_file(broker: Kafka, name: str, folder: Path) -> Path:
    stream = {
        "source": {"topic": name, "format": "lines", "pattern": PATTERN},
        "key": "block",
        "time": {"field": "time", "format": "%y%m%d %H%M%S"},
        "fields": {"message": "text"},
        "window": {"kind": "session", "id": "block", "gap": "2h", "size": 64},
        "detectors": ["count_vector"],
        "emit": "all",
    }
    document = {
        "name": name,
        "kafka": {"bootstrap": broker.bootstrap},
        "storage": str(folder / "storage"),
        "partitions": PARTITIONS,
        "streams": {"hdfs": stream},
    }
    path = folder / "pipeline.json"
    path.write_bytes(msgspec.json.encode(document))
    return path


def closing_lines() -> list[bytes]:
    """A line of the next day for each partition: sessions end when time has passed."""
    blocks = [b"blk_%d" % i for i in range(100)]
    places = partitions_of(blocks, PARTITIONS).tolist()
    chosen = {place: block for block, place in zip(blocks, places, strict=True)}
    return [b"081111 000000 1 INFO dfs.Test: the end of " + chosen[p] for p in range(PARTITIONS)]


def test_sessions_and_templates_over_the_broker(
    broker: Kafka, topic_name: str, tmp_path: Path, show: Callable[[str], None]
) -> None:
    lines = raw_lines()
    pipeline = pipeline_file(broker, topic_name, tmp_path)
    history, today = tmp_path / "history.log", tmp_path / "today.log"
    labels = read("hdfs/HDFS_first20000.block_labels")
    known = dict(zip(labels["block_id"], labels["label"], strict=True))
    # fitted on the blocks of which nothing is known, so that the others are new to the model
    history.write_bytes(b"\n".join(line for line in lines if block_of(line) not in known))
    today.write_bytes(b"\n".join([*lines, *closing_lines()]))
    for arguments in (
        ("fit", pipeline, "-i", history),
        ("topics", pipeline, "--create"),
        ("produce", pipeline, "-i", today),
    ):
        done = eddy(*arguments)
        assert done.returncode == 0, done.stderr
    total = len(lines) + PARTITIONS
    with worker(pipeline):
        accounts = wait_for(broker.bootstrap, f"{topic_name}.accounts", total, PATIENCE)
    assert sum(a.records_in for a in accounts) == sum(a.windowed for a in accounts) == total
    events = list(by_id(consume(broker.bootstrap, f"{topic_name}.hdfs.scored")).values())

    # one session a block, as many records in it as the log has lines of the block
    wanted = Counter(map(block_of, lines))
    assert {event.key: event.records for event in events} == wanted
    assert len(events) == len(wanted)
    assert known.keys() <= wanted.keys()
    assert all(event.p_value <= 1 for event in events)
    agreement = template_agreement(tmp_path, topic_name, lines)
    show(
        f"{len(events):,} sessions of {len(lines):,} lines, all {len(known):,} labelled blocks "
        f"among them; grouping accuracy of templates {agreement:.4f}"
    )
    assert agreement >= 0.99


def template_agreement(folder: Path, name: str, lines: list[bytes]) -> float:
    """Grouping accuracy (Zhu et al. 2019): lines whose group is the one of the true templates."""
    model = Registry(Storage(str(folder / "storage"))).champions([("hdfs", "count_vector")])
    matcher = TemplateMatcher(model["hdfs", "count_vector"].description.templates)
    with Path(os.environ["EDDY_DATA"], "hdfs", "HDFS_templates.csv").open() as file:
        rows = [row[-1] for row in csv.reader(file) if row]
    patterns = [re.compile(".*?".join(map(re.escape, row.split("<*>"))) + "$") for row in rows]
    mine, theirs = defaultdict(set), defaultdict(set)
    for index, line in enumerate(lines):
        message = line.decode().split(": ", 1)[1]
        mine[matcher.match(message)].add(index)
        true = next((i for i, p in enumerate(patterns) if p.match(message)), -1)
        theirs[true].add(index)
    groups = set(map(frozenset, theirs.values()))
    return sum(len(g) for g in map(frozenset, mine.values()) if g in groups) / len(lines)
