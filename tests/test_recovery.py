"""A handler that takes a partition over goes on as its predecessor would have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from agents import checkpointer, layout
from agents.fitting import build_history, fit_route
from agents.monitor import Monitor
from agents.registry import Registry
from agents.serve import PipelineHandler
from agents.train import Trainer
from connectors.base import Fetch, Output, Partition, flatten
from connectors.kafka.admin import Identity
from connectors.storage import Storage
from detectors.model import Model
from schemas.config import Pipeline as Config
from schemas.messages import ModelEvent, RetrainRequest, decode
from schemas.parse import parse_pipeline
from tests.pipelines import config, document, fetch, fitted, payments

PLACE = Partition("payments", 0)
RECORDS = payments(3000, seed=5)
STEP = 500
ONE = np.ones(1, dtype=np.int64)


def identity(topics: Iterable[str]) -> Identity:
    return Identity("cluster", dict.fromkeys(topics, "topic-id"))


def made(**changes: Any) -> Config:
    # ecod counts: however a processor sums, its scores are the same in batches of any size
    return config(emit="all", drift={"enabled": False}, **{"detectors": ["ecod"], **changes})


def model(seed: int) -> Model:
    """A model of its own for each seed."""
    stream = made().streams["payments"]
    decoder = fitted(made()).decoders["payments"]
    records = decoder(fetch(list(payments(2000, seed=seed)))).records
    return fit_route("payments", stream, stream.routes[0], build_history(stream, [records]))


class Worker:
    """What the Kafka worker does with its handler, without Kafka."""

    def __init__(self, folder: Path, settings: Config | None = None) -> None:
        self.clock = 0.0
        self.monitor = Monitor()
        self.handler = PipelineHandler(
            settings or made(),
            Storage(folder),
            monitor=self.monitor,
            identify=identity,
            now=lambda: self.clock,
        )

    def take_on(self, committed: int, generation: int = 1) -> int:
        starts = self.handler.assigned({PLACE: committed}, generation)
        return starts.get(PLACE, committed)

    def feed(self, first: int, end: int, *, checkpoint: bool = False) -> list[Output]:
        """Process records and commit them; with a checkpoint, if one is asked for."""
        outputs = self.everything(first, end, checkpoint=checkpoint)
        return [o for o in outputs if o.topic == "payments.scored"]

    def everything(self, first: int, end: int, *, checkpoint: bool = False) -> list[Output]:
        """The same, with all that is published."""
        self.clock += 100.0 * checkpoint
        batch = self.handler.process([fetch(list(RECORDS[first:end]), first=first)])
        self.handler.committed(batch.positions)
        # what is written beside the work is on the storage when the writer's next turn comes
        self.handler._checkpointer._writer.submit(lambda: None).result()
        return flatten(batch.outputs)


def scored(outputs: Iterable[Output]) -> list[bytes]:
    """Events without what depends on the clock."""
    return [o.value.partition(b'"processed_at"')[0] for o in outputs]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    registry = Registry(Storage(tmp_path))
    registry.promote("payments", "ecod", registry.save(model(seed=1)))
    return tmp_path


def undisturbed(storage: Path) -> list[bytes]:
    worker = Worker(storage.with_name("other"))
    worker.handler.pipeline.apply("payments", "ecod", model(seed=1))
    worker.take_on(0)
    return scored(o for at in range(0, 3000, STEP) for o in worker.feed(at, at + STEP))


def test_a_successor_goes_on_where_the_commit_is(storage: Path) -> None:
    first = Worker(storage)
    assert first.take_on(0) == 0
    seen = first.feed(0, 1000, checkpoint=True) + first.feed(1000, 1500)
    second = Worker(storage)
    assert second.take_on(1500, generation=2) == 1000
    assert second.feed(1000, 1200) == []  # published before
    seen += second.feed(1200, 2000)  # of which 1200 to 1500 were
    seen += second.feed(2000, 3000)
    assert scored(seen) == undisturbed(storage)
    [account] = second.handler.pipeline.accounts()
    assert (account.first_offset, account.records_in, account.windowed) == (0, 3000, 3000)


def test_a_kept_state_is_good_only_at_the_commit(storage: Path) -> None:
    worker = Worker(storage)
    worker.take_on(0)
    worker.feed(0, 1000, checkpoint=True)
    worker.feed(1000, 1500)
    assert worker.take_on(1500, generation=2) == 1500
    worker.feed(1500, 1600)  # and this commit is not known to the group:
    assert worker.take_on(1500, generation=3) == 1000


def test_a_model_waits_until_the_partition_is_back(storage: Path) -> None:
    first = Worker(storage)
    first.take_on(0)
    seen = first.feed(0, 1000, checkpoint=True) + first.feed(1000, 1500)
    registry, other = Registry(Storage(storage)), model(seed=2)
    registry.promote("payments", "ecod", registry.save(other))

    second = Worker(storage)
    second.take_on(1500, generation=2)
    assert not second.handler.wants_barrier()
    second.feed(1000, 1500)
    assert second.handler.wants_barrier()
    second.handler.barrier({PLACE: 1500})
    seen += second.feed(1500, 2000)

    # the checkpoint that names it was there before the first window that it judged
    third = Worker(storage)
    assert third.take_on(1500, generation=3) == 1500
    assert not third.handler.wants_barrier()
    assert scored(third.feed(1500, 2000)) == scored(seen[-500:])
    seen += third.feed(2000, 3000)

    expected = Worker(storage.with_name("other"))
    expected.handler.pipeline.apply("payments", "ecod", model(seed=1))
    expected.take_on(0)
    wanted = expected.feed(0, 1500)
    expected.handler.pipeline.apply("payments", "ecod", other)
    assert scored(seen) == scored(wanted + expected.feed(1500, 3000))


def test_the_models_are_those_of_the_checkpoint(storage: Path) -> None:
    worker = Worker(storage)
    worker.take_on(0)  # nothing is processed yet, and still the model is noted
    registry = Registry(Storage(storage))
    registry.promote("payments", "ecod", registry.save(model(seed=2)))
    successor = Worker(storage)
    assert successor.take_on(0, generation=2) == 0
    events = scored(successor.feed(0, 500))
    assert len(events) > 400
    assert events == undisturbed(storage)[: len(events)]


@pytest.mark.parametrize("damage", ["cut", "altered", "emptied"])
def test_a_damaged_checkpoint_is_passed_over(storage: Path, damage: str) -> None:
    worker = Worker(storage)
    worker.take_on(0)
    worker.feed(0, 1000, checkpoint=True)
    worker.feed(1000, 2000, checkpoint=True)
    newest = max((storage / "checkpoints").rglob("0*-*"))
    data = newest.read_bytes()
    damaged = {"cut": data[:-20], "altered": data[:-20] + bytes(20), "emptied": b""}
    newest.write_bytes(damaged[damage])
    successor = Worker(storage)
    assert successor.take_on(2000, generation=2) == 1000
    assert successor.feed(1000, 2000) == []
    assert scored(successor.feed(2000, 3000)) == undisturbed(storage)[-1000:]


def test_without_a_checkpoint_some_records_are_read_again(storage: Path) -> None:
    rewinding = made()
    worker = Worker(storage, rewinding)
    assert worker.take_on(2000) == 0  # fewer than the default
    assert worker.feed(0, 2000) == []
    events = worker.feed(2000, 2500)
    assert len(events) == 500
    [account] = worker.handler.pipeline.accounts()
    assert (account.first_offset, account.records_in) == (2000, 500)
    # a checkpoint was made at the commit, before the first event
    assert Worker(storage).take_on(2000, generation=2) == 2000


def test_a_checkpoint_of_another_configuration_is_passed_over(storage: Path) -> None:
    worker = Worker(storage)
    worker.take_on(0)
    worker.feed(0, 1000, checkpoint=True)
    windows = {"kind": "sliding", "size": 5}
    with capture_logs() as logs:
        changed = Worker(storage, made(window=windows, key="country", fields={"amount": "number"}))
        assert changed.take_on(1000, generation=2) == 0
    told = {entry["event"].partition(":")[0]: entry for entry in logs}
    why = told["checkpoint passed over"]["why"]
    for difference in (
        "streams.payments.window.size: 4 → 5",
        "streams.payments.key: card → country",
        "streams.payments.fields.country: {'type': 'category', 'transform': 'none'} → nothing",
    ):
        assert difference in why
    fate = told["no checkpoint to go on from"]
    assert (fate["start"], fate["committed"]) == (0, 1000)
    # the model was made for other windows, too: they are filled, and none is scored
    assert "steps = 4, the pipeline has 5" in told["the model cannot judge these windows"]["why"]
    assert changed.feed(0, 1000) == []
    assert changed.feed(1000, 2000) == []
    [account] = changed.handler.pipeline.accounts()
    assert (account.records_in, account.windowed, account.unscored) == (1000, 1000, 1000)


def test_after_a_change_of_windows_a_new_model_is_asked_for_and_made(storage: Path) -> None:
    first = Worker(storage)
    first.take_on(0)
    first.feed(0, 1000, checkpoint=True)
    first.handler.stop()
    fields = {"amount": "number", "country": "category", "colour": "category", "age": "number"}
    settings = made(window={"kind": "sliding", "size": 6}, fields=fields)
    changed = Worker(storage, settings)
    changed.take_on(1000, generation=2)
    changed.feed(0, 1000)
    outputs = changed.everything(1000, 2000)
    [request] = [o for o in outputs if o.topic == "eddy.retrain"]
    assert decode(request.value, RetrainRequest).reason == "missing"
    trainer = Trainer(settings, Storage(storage))
    asked = Fetch(Partition("eddy.retrain", 0), ONE, ONE, [request.key], [request.value])
    [answer] = flatten(trainer.process([asked]).outputs)
    event = decode(answer.value, ModelEvent)
    assert event.stage == "champion"
    [again] = flatten(trainer.process([asked]).outputs)  # it is settled now
    assert decode(again.value, ModelEvent).artefact_id == event.artefact_id
    changed.handler.follow_models(answer.key, answer.value, 0)
    changed.handler.barrier({PLACE: 2000})
    assert len(changed.feed(2000, 3000)) == 1000


@pytest.mark.parametrize(
    "change",
    [
        {"duplicates_within": 5},
        {"alerts": {"budget_per_day": 3, "incident_gap": "1m"}},
        {"archive": False},
        {"source": {"topic": "payments", "format": "arrow"}},
        {"fields": {"amount": {"type": "number", "required": True}, "country": "category"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_changes_that_windows_do_not_depend_on_keep_the_state(
    storage: Path, change: dict[str, Any]
) -> None:
    worker = Worker(storage)
    worker.take_on(0)
    worker.feed(0, 1000, checkpoint=True)
    settings = parse_pipeline(document(emit="anomalies", drift={"enabled": True}, **change))
    assert Worker(storage, settings).take_on(1000, generation=2) == 1000


def test_a_detector_that_is_added_begins_anew_beside_one_that_goes_on(storage: Path) -> None:
    worker = Worker(storage)
    worker.take_on(0)
    seen = worker.feed(0, 1000, checkpoint=True) + worker.feed(1000, 1500)
    settings = made(detectors=["ecod", "knn"])
    changed = Worker(storage, settings)
    with capture_logs() as logs:
        assert changed.take_on(1500, generation=2) == 1000
    [warning] = [entry for entry in logs if entry["log_level"] == "warning"]
    assert "begin anew" in warning["event"]
    assert warning["detectors"] == ["knn"]
    changed.feed(1000, 1500)
    # from here on a checkpoint says what the routes began with
    again = Worker(storage, settings)
    assert again.take_on(1500, generation=3) == 1500
    seen += again.feed(1500, 3000)
    assert scored(seen) == undisturbed(storage)
    # and one that is taken away again leaves the other as it is
    assert Worker(storage).take_on(1500, generation=4) == 1500


def test_a_checkpoint_of_a_later_version_is_left_for_it(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(storage)
    worker.take_on(0)
    worker.feed(0, 1000, checkpoint=True)
    with monkeypatch.context() as patch:
        for module in (checkpointer, layout):
            patch.setattr(module, "STATE_VERSION", layout.STATE_VERSION + 1)
        later = Worker(storage)
        later.take_on(1000, generation=2)
        later.feed(1000, 2000, checkpoint=True)
        theirs = max((storage / "checkpoints").rglob("0*-*"))
    with capture_logs() as logs:
        back = Worker(storage)
        assert back.take_on(2000, generation=3) == 1000
    assert "later version of Eddy" in logs[1]["event"]
    assert back.feed(1000, 2000) == []
    events = back.feed(2000, 3000, checkpoint=True)
    assert scored(events) == undisturbed(storage)[-1000:]
    assert theirs.exists()


def exported(worker: Worker) -> dict[str, float]:
    """Records by fate, as Prometheus reads them."""
    text = generate_latest(worker.monitor.registry).decode()
    [family] = [x for x in text_string_to_metric_families(text) if x.name == "eddy_fate_records"]
    place = {"stream": "payments", "topic": "payments", "partition": "0"}
    assert all(sample.labels.items() >= place.items() for sample in family.samples)
    return {sample.labels["fate"]: sample.value for sample in family.samples}


def test_counters_go_on_across_restarts_and_never_back(storage: Path) -> None:
    first = Worker(storage)
    first.take_on(0)
    assert set(exported(first).values()) <= {0}
    first.feed(0, 1000, checkpoint=True)
    first.feed(1000, 1500)
    assert exported(first)["windowed"] == 1500
    first.handler.process([fetch(list(RECORDS[1500:1800]), first=1500)])
    assert exported(first)["windowed"] == 1500  # the rest is not committed: it may be taken back

    second = Worker(storage)
    assert second.take_on(1500, generation=2) == 1000
    second.feed(1000, 1200)
    assert exported(second) == {}  # it stands before what its predecessor has told
    second.feed(1200, 1500)
    assert exported(second)["windowed"] == 1500
    second.feed(1500, 2000)
    assert exported(second)["windowed"] == 2000
    second.handler.stop()
    second.handler.committed({})

    third = Worker(storage)
    assert third.take_on(2000, generation=3) == 2000
    assert exported(third) == {
        "windowed": 2000,
        "late": 0,
        "duplicate": 0,
        "dead_letter": 0,
        "filtered": 0,
    }
    third.handler.assigned({}, 4)
    assert exported(third) == {}  # somebody else's now
