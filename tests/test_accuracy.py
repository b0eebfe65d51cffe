"""Measures of accuracy come from splits that keep what is tested out of what is fitted on."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agents.bench.accuracy.cells import Cell, cell
from agents.bench.accuracy.methods import PYOD, methods_for
from agents.bench.accuracy.report import report
from agents.bench.accuracy.table import Table
from agents.bench.accuracy.tasks import LABELLED, SUITES, TASKS, few_labels, half_of_normals
from agents.cli_accuracy import accuracy
from detectors import CATALOGUE

TASK = next(task for task in TASKS if task.name == "thyroid")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one data set: a blob, and a few points far from it."""
    rng = np.random.default_rng(0)
    label = np.arange(400) % 20 == 0
    values = rng.normal(size=(400, 3)) + 6.0 * label[:, None]
    columns = {f"x{i}": values[:, i] for i in range(3)}
    path = tmp_path / "data" / f"{TASK.path}.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({**columns, "label": label.astype(int)}), path)
    return tmp_path / "data"


def measured(**found: object) -> Cell:
    fixed = {"suite": "records", "task": "thyroid", "rows": 10, "seconds": 1.0}
    return msgspec.convert({"method": "knn", "seed": 0, **fixed, **found}, Cell)


@given(st.integers(60, 400), st.integers(0, 5), st.integers(1, 500))
def test_no_row_is_both_fitted_on_and_tested(odd: int, seed: int, rows: int) -> None:
    anomalous = np.arange(1000) < odd
    for divide in (half_of_normals, few_labels):
        split = divide(anomalous, np.random.default_rng(seed), rows)
        assert not set(split.fit) & set(split.test)
        assert len(set(split.test)) == len(split.test)
        assert 0 < anomalous[split.test].sum() < len(split.test)


def test_normals_only_are_fitted_on_where_there_are_no_labels() -> None:
    anomalous = np.arange(1000) < 100
    split = half_of_normals(anomalous, np.random.default_rng(0), 10_000)
    assert not anomalous[split.fit].any()
    assert len(split.fit) == 450
    assert anomalous[split.test].sum() == 100
    rare = half_of_normals(anomalous, np.random.default_rng(0), 10_000, share=0.05)
    assert anomalous[rare.test].mean() == pytest.approx(0.05, abs=0.002)


def test_thirty_anomalies_have_labels_and_two_percent_are_hidden() -> None:
    anomalous = np.arange(10_000) < 1000
    split = few_labels(anomalous, np.random.default_rng(0), 100_000)
    assert split.labels is not None
    assert anomalous[split.fit[split.labels == 1]].all()
    assert (split.labels == 1).sum() == LABELLED
    assert anomalous[split.fit[split.labels == -1]].mean() == pytest.approx(0.02, abs=0.001)
    assert anomalous[split.test].mean() == pytest.approx(0.1, abs=0.001)


def test_a_cell_is_measured_once(data: Path, tmp_path: Path) -> None:
    first = cell(tmp_path, data, TASK, "knn", 0, 1000, 10.0)
    assert first.failure == ""
    assert first.average_precision > 0.9
    assert first.tested == 210
    path = tmp_path / "records" / "thyroid" / "knn-0.json"
    kept = json.loads(path.read_bytes())
    path.write_text(json.dumps({**kept, "average_precision": 0.123}))
    assert cell(tmp_path, data, TASK, "knn", 0, 1000, 10.0).average_precision == 0.123
    assert cell(tmp_path, data, TASK, "knn", 0, 100, 10.0).average_precision > 0.9


def test_what_fails_says_so_and_is_tried_again(data: Path, tmp_path: Path) -> None:
    failed = cell(tmp_path, data, TASK, "devnet", 0, 1000, 10.0)
    assert "label" in failed.failure
    assert failed.average_precision == 0.0
    assert "label" in cell(tmp_path, data, TASK, "devnet", 0, 1000, 10.0).failure


def test_the_command_prints_a_table_with_the_best_first(data: Path, tmp_path: Path) -> None:
    options = ["--data", str(data), "--suite", "weak", "--method", "knn"]
    with CliRunner().isolated_filesystem(tmp_path):
        missing = CliRunner().invoke(accuracy, options)
    assert "no such file" in str(missing.exception)
    cells = [
        measured(method="knn", average_precision=0.5),
        measured(method="pca", average_precision=0.9),
        measured(method="iforest", failure="too slow"),
    ]
    lines = report(cells).splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == ["pca", "knn", "iforest"]
    assert "too slow" in lines[4]


def test_every_suite_has_methods_of_ours_and_peers() -> None:
    for suite in SUITES:
        names = methods_for(suite)
        assert set(PYOD) < set(names)
        assert set(names) - set(PYOD) <= set(CATALOGUE)
    assert "devnet" in methods_for("weak")
    assert "devnet" not in methods_for("records")


def test_categories_are_one_hot_for_those_who_know_none() -> None:
    table = Table(
        ("x",),
        np.array([[1.0], [2.0], [3.0]], dtype=np.float32),
        {"c": ["a", "b", "z"]},
        np.array([False, False, True]),
    )
    known, judged = table.one_hot(np.array([0, 1]), np.array([2]))
    assert known.tolist() == [[1.0, 1.0, 0.0], [2.0, 0.0, 1.0]]
    assert judged.tolist() == [[3.0, 0.0, 0.0]]
