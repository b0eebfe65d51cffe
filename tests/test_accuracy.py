"""Measures of accuracy come from splits that keep what is tested out of what is fitted on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agents.bench.accuracy import edges, series
from agents.bench.accuracy.case import Bools, Case, Floats, Rows
from agents.bench.accuracy.cells import Cell, Wish, cell, cells
from agents.bench.accuracy.csv_files import read_cells, write_cells
from agents.bench.accuracy.measures import best_threshold, event_f1
from agents.bench.accuracy.methods import methods_for, run
from agents.bench.accuracy.online import STREAM_PEERS
from agents.bench.accuracy.report import condensed, report
from agents.bench.accuracy.sessions import STEPS, Sessions
from agents.bench.accuracy.splits import LABELLED, few_labels, half_of_normals
from agents.bench.accuracy.table import MANY, Table
from agents.bench.accuracy.tasks import SUITES, TASKS, WITH_LABELS
from agents.bench.peers import PYOD
from agents.cli_accuracy import accuracy
from detectors import CATALOGUE
from detectors.batch import as_batch

TASK = next(task for task in TASKS if task.name == "thyroid")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one data set: a blob, and a few points far from it."""
    rng = np.random.default_rng(0)
    label = np.arange(400) % 20 == 0
    values = rng.normal(size=(400, 3)) + 6.0 * label[:, None]
    columns = {f"x{i}": values[:, i] for i in range(3)}
    path = tmp_path / "data" / f"{TASK.files[0]}.parquet"
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


def test_several_at_once_are_the_same_in_the_same_order(data: Path, tmp_path: Path) -> None:
    wishes = [Wish(TASK, name, seed) for name in ("pca", "knn") for seed in (0, 1)]
    found = [
        [
            (one.method, one.seed, one.average_precision, one.failure)
            for one in cells(tmp_path / str(jobs), data, wishes, 1000, 10.0, jobs)
        ]
        for jobs in (1, 2)
    ]
    assert found[0] == found[1]
    assert [(name, seed) for name, seed, _, _ in found[0]] == [wish[1:] for wish in wishes]
    assert not any(failure for *_, failure in found[0])


def endless(folder: Path, seed: int, rows: int) -> list[Callable[[], Case]]:
    while True:
        pass


def test_what_takes_too_long_is_given_up_and_says_so(tmp_path: Path) -> None:
    task = replace(TASK, cases=endless)
    assert cell(tmp_path, tmp_path, task, "knn", 0, 10, 0.01).failure == "not done within 0.6 s"


def test_the_command_prints_a_table_with_the_best_first(data: Path, tmp_path: Path) -> None:
    options = ["--data", str(data), "--suite", "weak", "--detector", "knn"]
    with CliRunner().isolated_filesystem(tmp_path):
        missing = CliRunner().invoke(accuracy, options)
        unknown = CliRunner().invoke(accuracy, [*options, "--task", "thyroid"])
    assert "no such file" in str(missing.exception)
    assert "thyroid: not in these suites; there are annthyroid, " in unknown.output
    cells = [
        measured(method="knn", average_precision=0.5),
        measured(method="pca", average_precision=0.9),
        measured(method="iforest", failure="too slow"),
    ]
    lines = report(cells).splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == ["pca", "knn", "iforest"]
    assert "too slow" in lines[4]


def test_the_best_of_each_sort_is_told() -> None:
    cells = [
        measured(method="knn", average_precision=0.5),
        measured(method="pca", average_precision=0.4),
        measured(method="svdd", average_precision=0.3),
        measured(method="pyod:ecod", average_precision=0.2),
        measured(suite="logs", task="hdfs", method="ffp", average_precision=0.9),
    ]
    records, logs = condensed(cells).splitlines()[2:]
    assert "`svdd` 0.300 | `knn` 0.500 | `pyod:ecod` 0.200" in records
    assert "`ffp` 0.900 | – | – |" in logs


def test_cells_come_back_from_their_files(tmp_path: Path) -> None:
    cells = [
        measured(method="knn", average_precision=0.5, tested=10),
        measured(method="pca", failure="too slow, by far"),
        measured(suite="series", task="nab", vus_pr=0.25, event_f1=0.0, stopped="a, b"),
    ]
    write_cells(tmp_path, cells)
    assert read_cells(tmp_path) == cells


def test_every_suite_has_methods_of_ours_and_peers() -> None:
    for suite in SUITES:
        names = methods_for(suite)
        peers = set(names) - set(CATALOGUE)
        assert peers == (set(STREAM_PEERS) if suite == "streams" else set(PYOD) & peers)
        assert len(peers) > 1
        assert len(names) > len(peers)
        assert ("pyod:devnet" in names) == (suite in WITH_LABELS)
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


def test_a_field_of_many_values_is_given_as_how_rare_its_value_is() -> None:
    values = [str(i) for i in range(MANY + 1)] * 2 + ["0", "new"]
    n = len(values)
    table = Table(("x",), np.zeros((n, 1), dtype=np.float32), {"c": values}, np.zeros(n, bool))
    known, judged = table.one_hot(np.arange(n - 1), np.array([0, 1, n - 1]))
    assert known.shape == (n - 1, 2)
    common, rarer, new = judged[:, 1]
    assert common < rarer < new
    assert common == pytest.approx(-np.log(3 / (n - 1)))


def test_every_detector_of_the_catalogue_is_in_a_suite() -> None:
    assert set(CATALOGUE) <= {name for suite in SUITES for name in methods_for(suite)}


def test_a_graph_window_is_odd_by_one_odd_edge(tmp_path: Path) -> None:
    n = 40 * edges.STEPS
    rng = np.random.default_rng(0)
    odd = np.arange(n) % (5 * edges.STEPS) == 3
    ends = {end: [f"{end}{x}" for x in rng.integers(9, size=n)] for end in ("src", "dst")}
    ends["dst"] = [x if not label else "new" for x, label in zip(ends["dst"], odd, strict=True)]
    pq.write_table(pa.table({**ends, "label": odd.astype(int)}), tmp_path / "edges.parquet")
    (make,) = edges.graph_cases("edges", ("src", "dst"), tmp_path, 0, 1000)
    case = make()
    assert case.fit.cat.shape == (16, edges.STEPS, 2)
    assert case.truth.sum() == 1
    known, judged = case.flat()
    assert known.shape == (16, 2 * edges.STEPS)
    assert judged[case.truth].max() > judged[~case.truth].max()


def test_bags_of_a_run_are_all_fitted_on_or_all_tested(tmp_path: Path) -> None:
    runs = [recording(slice(100, 120), 5 * series.BAG + 7) for _ in range(6)]
    parts = [
        {"file": f"run{i}", "anomaly": int(odd), "a": float(row[0]), "b": float(i)}
        for i, (numbers, labels) in enumerate(runs)
        for row, odd in zip(numbers, labels, strict=True)
    ]
    (tmp_path / "skab").mkdir()
    pq.write_table(pa.Table.from_pylist(parts), tmp_path / "skab/skab.parquet")
    (make,) = series.labelled_runs(tmp_path, 0, 1000)
    case = make()
    fit, test = (set(np.unique(part.num[:, :, 1])) for part in (case.fit, case.test))
    assert not fit & test
    assert len(fit | test) == len(runs)
    assert case.labels is not None
    assert case.labels.sum() == case.truth.sum() == 3


def recording(labelled: slice, steps: int = 300) -> tuple[series.Numbers, Bools]:
    """Two waves, and a stretch where one of them stands still."""
    numbers = np.stack([np.sin(np.arange(steps) / k) for k in (3, 5)], axis=1).astype(np.float32)
    anomalous = np.zeros(steps, dtype=bool)
    anomalous[labelled] = True
    numbers[labelled, 0] = 2.0
    return numbers, anomalous


def test_a_window_is_judged_by_its_last_step() -> None:
    numbers, anomalous = recording(slice(100, 120))
    case = series.series_case(numbers[:90], [(numbers, anomalous), (numbers, anomalous)], 1000)
    each = len(numbers) - series.STEPS + 1
    assert case.test.num.shape[:2] == (2 * each, series.STEPS)
    np.testing.assert_array_equal(case.test.num[:each, -1, :2], numbers[series.STEPS - 1 :])
    np.testing.assert_array_equal(case.truth[:each], anomalous[series.STEPS - 1 :])
    assert case.series is not None
    assert case.series.tolist() == [0] * each + [1] * each
    known, judged = case.flat()
    assert known.shape == (90 - series.STEPS + 1, 2 * series.STEPS)
    assert len(judged) == 2 * each


@given(st.integers(1, 40))
def test_windows_to_fit_on_are_spread_over_the_recording(rows: int) -> None:
    numbers, anomalous = recording(slice(100, 120), 120)
    case = series.series_case(numbers, [(numbers, anomalous)], rows)
    assert len(case.fit) <= rows
    np.testing.assert_array_equal(case.fit.num[0, :, :2], numbers[: series.STEPS])


def write(path: Path, numbers: Floats | series.Numbers, **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {f"m{i}": numbers[:, i] for i in range(numbers.shape[1])}
    pq.write_table(pa.table({**columns, **more}), path)


def test_series_are_measured_by_volume_events_and_delay(tmp_path: Path) -> None:
    task = next(task for task in TASKS if task.name == "asd")
    for number, file in enumerate(task.files):
        numbers, anomalous = recording(slice(100 + number, 120))
        if file.endswith("_train"):
            write(tmp_path / "data" / f"{file}.parquet", numbers[:90])
        else:
            write(tmp_path / "data" / f"{file}.parquet", numbers, label=anomalous.astype(int))
    found = cell(tmp_path, tmp_path / "data", task, "knn", 0, 1000, 10.0)
    assert found.failure == ""
    assert found.vus_pr is not None
    assert found.vus_pr > 0.6
    assert found.event_f1 is not None
    assert found.event_f1 > 0.6
    assert found.delay_windows is not None
    assert found.delay_windows < series.STEPS
    assert found.tested == 6 * (300 - series.STEPS + 1)
    assert "VUS-PR" in report([found])
    assert f"{found.vus_pr:.3f}" in report([found])


def by_definition(truth: Bools, scores: Floats, series: Rows) -> float:
    """The composite F-score at every threshold, one by one."""
    runs: list[list[int]] = []
    for i in range(len(truth)):
        if not truth[i]:
            continue
        if i and truth[i - 1] and series[i] == series[i - 1]:
            runs[-1].append(i)
        else:
            runs.append([i])
    best = 0.0
    for threshold in scores:
        flagged = scores >= threshold
        precision = truth[flagged].mean()
        recall = np.mean([flagged[run].any() for run in runs])
        best = max(best, 2 * precision * recall / max(precision + recall, 1e-12))
    return best


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_event_f1_is_what_its_definition_says(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(size) < 0.4
    truth[rng.integers(size)] = True
    scores = rng.integers(0, 6, size).astype(float)
    series = np.sort(rng.integers(0, 3, size))
    assert event_f1(truth, scores, series) == pytest.approx(by_definition(truth, scores, series))


def test_the_best_threshold_flags_what_it_should() -> None:
    truth = np.array([False, True, False, True, False])
    scores = np.array([0.1, 0.8, 0.3, 0.9, 0.2])
    assert (scores >= best_threshold(truth, scores)).tolist() == truth.tolist()


def test_sessions_are_windows_of_events_and_rows_of_counts(tmp_path: Path) -> None:
    columns = {"key": ["a", "b", "c"], "events": [[1, 2, 2], [3], [1] * 100], "label": [0, 1, 0]}
    pq.write_table(pa.table(columns), tmp_path / "sessions.parquet")
    sessions = Sessions.read(tmp_path, "sessions", key="key")
    case = sessions.case(np.array([0]), np.array([1, 2]))
    assert case.truth.tolist() == [True, False]
    assert case.test.lengths.tolist() == [1, STEPS]
    known, judged = case.flat()
    assert known.tolist() == [[0.0, 1.0, 2.0, 0.0]]
    assert judged.tolist() == [[0.0, 0.0, 0.0, 1.0], [0.0, 100.0, 0.0, 0.0]]


def test_a_stream_is_scored_before_it_is_learned_from(tmp_path: Path) -> None:
    task = next(task for task in TASKS if task.suite == "streams" and task.name == "smtp")
    rng = np.random.default_rng(0)
    label = np.zeros(1500, dtype=int)
    label[900:1200] = 1  # a blob that nobody has seen before; then it stays
    values = rng.normal(size=(1500, 3)) + 8.0 * label[:, None]
    write(tmp_path / f"{task.files[0]}.parquet", values, label=label)
    [make] = task.cases(tmp_path, 0, 1000)
    case = make()
    assert (len(case.fit), len(case.test)) == (500, 1000)
    for name in ("knn", "river:hst", "rcf3:forest"):
        outcome = run(name, case, 0, 10.0)
        first, last = outcome.scores[400:450].mean(), outcome.scores[660:700].mean()
        assert first > 1.05 * last, name


def test_a_peer_that_refuses_a_case_tells_nothing_apart_there() -> None:
    still = as_batch(np.zeros((40, 3)))
    rows = np.zeros((40, 3))
    case = Case(still, None, still, np.arange(40) < 20, lambda: (rows, rows))
    outcome = run("pyod:deep_svdd", case, 0, 10.0)
    assert outcome.scores.tolist() == [0.0] * 40
    assert outcome.stopped.startswith("refused: DeepSVDD: the hypersphere center is all zeros")


def test_a_task_without_anomalies_says_so(data: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(600, 3))
    task = next(task for task in TASKS if task.suite == "streams" and task.name == "smtp")
    write(tmp_path / "plain" / f"{task.files[0]}.parquet", values, label=np.zeros(600, dtype=int))
    found = cell(tmp_path, tmp_path / "plain", task, "knn", 0, 1000, 10.0)
    assert "0 are anomalous" in found.failure
