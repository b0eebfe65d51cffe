"""Models that go on learning: when one is due, what it learns, and what becomes of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.fitting import build_history, fit_route
from agents.local import LocalRuntime
from agents.partition import RouteState
from agents.pipeline import Pipeline
from agents.registry import Registry
from agents.train import Trainer
from connectors.base import Fetch, Partition, flatten
from connectors.storage import Storage
from detectors.model import Model
from schemas.config import Pipeline as Config
from schemas.errors import DataError
from schemas.messages import ModelEvent, RetrainRequest, ScoredEvent, decode
from tests.pipelines import config, fetch, payments

RECORDS = payments(8000, seed=3)
HISTORY = 2000
EVERY = 1500
ONLINE = {"detector": "loda", "update_every": EVERY}


def made(route: dict[str, Any] | None = None) -> Config:
    return config(emit="all", drift={"enabled": False}, detectors=[route or ONLINE])


def model(settings: Config, records: list[bytes]) -> Model:
    stream = settings.streams["payments"]
    decoded = Pipeline(settings, lambda: 0).decoders["payments"](fetch(list(records))).records
    return fit_route("payments", stream, stream.routes[0], build_history(stream, [decoded]))


def started(folder: Path, settings: Config) -> tuple[LocalRuntime, Model]:
    storage, first = Storage(folder), model(settings, RECORDS[:HISTORY])
    registry = Registry(storage)
    registry.promote("payments", first.detector.caps.name, registry.save(first))
    return LocalRuntime(settings, storage), first


def told(runtime: LocalRuntime, topic: str, kind: type[Any]) -> list[Any]:
    return [decode(o.value, kind) for o in runtime.sink.topics[topic]]


@given(st.lists(st.integers(0, 5000), max_size=20))
def test_a_model_is_due_at_fixed_counts_however_windows_come_together(counts: list[int]) -> None:
    settings = made()
    stream = settings.streams["payments"]
    state = RouteState("payments", stream.routes[0], stream, 1, live=True)
    due = []
    for count in counts:
        before = state.spoken
        due += [before + index + 1 for index in state.due(count)]
    assert due == list(range(EVERY, sum(counts) + 1, EVERY))


@pytest.mark.parametrize("size", [317, 450])
def test_a_stream_teaches_its_model(tmp_path: Path, size: int) -> None:
    runtime, first = started(tmp_path, made())
    for at in range(HISTORY, len(RECORDS), size):
        runtime.feed([fetch(list(RECORDS[at : at + size]), first=at)])
    runtime.finish()
    requests = told(runtime, "eddy.retrain", RetrainRequest)
    assert {request.reason for request in requests} == {"age"}
    events = told(runtime, "eddy.models", ModelEvent)
    assert [event.stage for event in events] == ["champion"] * len(requests)
    chain = [first.model_id, *(event.artefact_id for event in events)]
    assert len(set(chain)) == len(chain) == 4
    assert [event.parent_id for event in events] == chain[:-1]
    speakers = [event.model_id for event in told(runtime, "payments.scored", ScoredEvent)]
    assert list(dict.fromkeys(speakers)) == chain
    assert len(speakers) == len(RECORDS) - HISTORY
    # it is due after so many windows, and speaks from the batch on that follows
    firsts = [speakers.index(name) for name in chain]
    assert all(EVERY <= b - a < EVERY + size for a, b in itertools.pairwise(firsts))


def test_what_cannot_learn_more_is_fitted_anew(tmp_path: Path) -> None:
    runtime, first = started(tmp_path, made({"detector": "iforest", "update_every": EVERY}))
    assert not first.can_be_updated
    runtime.feed([fetch(list(RECORDS[HISTORY : HISTORY + EVERY]), first=HISTORY)])
    [event] = told(runtime, "eddy.models", ModelEvent)
    assert (event.stage, event.parent_id) == ("champion", first.model_id)


def test_an_update_learns_what_is_newer_and_leaves_its_parent_as_it_was() -> None:
    settings = made()
    parent = model(settings, RECORDS[:HISTORY])
    before = parent.to_files()
    stream = settings.streams["payments"]
    later = Pipeline(settings, lambda: 0).decoders["payments"](fetch(list(RECORDS[HISTORY:4000])))
    windows = build_history(stream, [later.records]).windows
    child = parent.updated(windows)
    assert parent.to_files() == before
    assert child.description.parent_id == parent.model_id
    # the newest calibrate, and are there to learn from the next time
    assert parent.description.data_to < child.description.data_to < int(windows.time.max())
    assert child.description.vocabularies == parent.description.vocabularies
    assert not np.array_equal(child.score(windows), parent.score(windows))
    assert child.calibration["full"].size == pytest.approx(0.3 * len(windows), rel=0.02)
    with pytest.raises(DataError, match="windows are too few"):
        parent.updated(windows[np.arange(19)])


def test_an_answer_that_was_not_heard_is_given_again(tmp_path: Path) -> None:
    runtime, first = started(tmp_path, made())
    runtime.feed([fetch(list(RECORDS[HISTORY : HISTORY + EVERY]), first=HISTORY)])
    [said] = runtime.sink.topics["eddy.retrain"]
    [answer] = told(runtime, "eddy.models", ModelEvent)
    trainer = Trainer(made(), Storage(tmp_path))  # its predecessor died, as it seems
    one = np.ones(1, dtype=np.int64)
    asked = Fetch(Partition(said.topic, 0), one, one, [said.key], [said.value])
    [output] = flatten(trainer.process([asked]).outputs)
    again = decode(output.value, ModelEvent)
    assert (again.stage, again.artefact_id) == ("champion", answer.artefact_id)
    assert again.parent_id == first.model_id
