"""The checks of detectors accept a correct detector and reject each known way to be wrong."""

from typing import Any

import msgspec
import pytest
import torch

from detectors import CATALOGUE, Detector, Scores, WindowBatch, detector_class
from detectors.checks import CheckError, checks_for
from detectors.checks.sources import sample
from detectors.checks.subject import WINDOWS, small
from detectors.scores import Explain
from tests import wrong_detectors as wrong

MISTAKES: list[tuple[type[Detector], str]] = [
    (wrong.Constant, "ranks_anomalies_higher"),
    (wrong.Flipped, "ranks_anomalies_higher"),
    (wrong.Saturates, "rises_with_the_anomaly"),
    (wrong.BatchNormalised, "batch_invariance"),
    (wrong.Positional, "batch_invariance"),
    (wrong.Positional, "permutation_equivariance"),
    (wrong.CountsPadding, "padding_length"),
    (wrong.LooksUnderTheMask, "hidden_values"),
    (wrong.WritesToItsInput, "input_untouched"),
    (wrong.KeepsTheCallersMemory, "nothing_shared"),
    (wrong.HandsOutItsState, "nothing_shared"),
    (wrong.LearnsWhileScoring, "scoring_changes_nothing"),
    (wrong.LeavesTrainingMode, "scoring_changes_nothing"),
    (wrong.Unseeded, "same_seed_same_scores"),
    (wrong.Continues, "same_seed_same_scores"),
    (wrong.SeedsTheWorld, "ambient_state_untouched"),
    (wrong.IgnoresItsSeed, "seed_matters"),
    (wrong.PeeksAtLabels, "labels_honest"),
    (wrong.ReportsNothing, "fit_reported"),
    (wrong.ScoresUnfitted, "unfitted_refused"),
    (wrong.ForgetsItsSpread, "round_trip"),
    (wrong.MakesUpItsSpread, "every_tensor_needed"),
    (wrong.RemembersEverything, "bounded_state"),
    (wrong.SharesBetweenInstances, "instances_independent"),
    (wrong.BlamesAtRandom, "blames_the_feature"),
    (wrong.BlamesTheStepAfter, "blames_the_step"),
    (wrong.BlamesBelowZero, "explanations"),
    (wrong.PromisesMore, "explanations"),
    (wrong.DividesByZero, "one_value_only"),
    (wrong.DividesByZero, "few_windows"),
    (wrong.DividesByZero, "extreme_numbers"),
    (wrong.StumblesOverMissing, "missing_numbers"),
    (wrong.MindsThePrecision, "double_precision"),
    (wrong.CutsWhatDoesNotFit, "other_shape"),
    (wrong.CutsWhatDoesNotFit, "longer_windows"),
    (wrong.ForgetsPartsOfNothing, "empty_batch"),
    (wrong.Undocumented, "documented"),
    (wrong.Unvalidated, "settings_validated"),
    (wrong.SaysUpdated, "incremental"),
    (wrong.WaivesWithoutReason, "capabilities_stated"),
]


def failing(cls: type[Detector], name: str) -> list[str]:
    """Run the checks of that name over all data; the names of those that reject ``cls``."""
    found = []
    for check in checks_for(cls):
        if check.name.partition("[")[0] == name and not check.waived:
            try:
                check.run()
            except CheckError:
                found.append(check.name)
    return found


@pytest.mark.parametrize("check", checks_for(wrong.Correct), ids=lambda check: check.name)
def test_a_correct_detector_passes(check: Any) -> None:
    if check.waived:
        pytest.skip(f"waived: {check.waived}")
    check.run()


@pytest.mark.parametrize(
    ("cls", "name"),
    MISTAKES,
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_known_mistake_is_rejected(cls: type[Detector], name: str) -> None:
    assert failing(cls, name)


def test_every_check_is_known_to_reject_something() -> None:
    checks = [check for name in CATALOGUE for check in checks_for(detector_class(name))]
    names = {check.name.partition("[")[0] for check in checks}
    # the one checks files, not detectors; the other needs two devices
    assert names - {name for _, name in MISTAKES} == {"tampering_refused", "device_parity"}


def test_a_waived_check_is_listed_with_its_reason() -> None:
    class Waiving(wrong.Correct):
        caps = msgspec.structs.replace(
            wrong.CAPS,
            waived={"batch_invariance[series]": "looks at pairs", "round_trip": "is never saved"},
        )

    waived = {check.name: check.waived for check in checks_for(Waiving) if check.waived}
    waived = {name: reason for name, reason in waived.items() if "CUDA" not in reason}
    assert waived == {"batch_invariance[series]": "looks at pairs", "round_trip": "is never saved"}


def test_other_errors_are_not_taken_for_failed_checks() -> None:
    class Broken(wrong.Correct):
        def _score(self, data: WindowBatch, explain: Explain) -> Scores:
            msg = "broken"
            raise ZeroDivisionError(msg)

    with pytest.raises(ZeroDivisionError):
        failing(Broken, "batch_invariance")


def test_labels_are_asked_of_detectors_that_need_them() -> None:
    class Needy(wrong.Correct):
        caps = msgspec.structs.replace(wrong.CAPS, uses_labels=True, min_labels=2)

    assert not failing(Needy, "labels_honest")
    assert not failing(Needy, "same_seed_same_scores")


@pytest.mark.parametrize("name", ["record", "mixed", "series", "sequence", "events", "catrec"])
def test_small_data_is_well_formed(name: str) -> None:
    data = small(name)
    assert len(data) == WINDOWS
    assert not data.num[~data.mask].any()
    assert not data.cat[~data.mask].any()
    assert int(data.lengths.min()) >= 1
    for field, size in enumerate(data.vocab):
        assert int(data.cat[:, :, field].max()) < size


def test_sources_are_the_same_every_time_and_easy_enough() -> None:
    first = sample("SUBSPACE")
    sample.cache_clear()
    second = sample("SUBSPACE")
    assert torch.equal(first.train.num, second.train.num)
    assert len(first.train) == 2000
    assert len(first.normal) == len(first.anomalous) == 500


def test_labelled_anomalies_of_fewlabels_are_ten_of_one_kind() -> None:
    data = sample("FEWLABELS")
    assert data.labels is not None
    chosen = data.train.num[torch.from_numpy(data.labels == 1), 0]
    directions = chosen / chosen.norm(dim=1, keepdim=True)
    assert len(chosen) == 10
    assert float((directions @ directions.T).min()) > 0.99
