"""What every detector must keep to, as checks that can be run one by one.

Which checks apply follows from ``Detector.caps``. A check that a detector cannot pass by the
nature of its method is waived in ``caps.waived`` with the reason, by its name or only for some
data by ``name[data]``; a waived check is listed as such, never passed over in silence. No check
catches errors that it does not expect.

>>> from detectors import detector_class
>>> names = [check.name for check in checks_for(detector_class("pca"))]
>>> "batch_invariance[series]" in names, "ranks_anomalies_higher[SUBSPACE]" in names
(True, True)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from detectors.capabilities import Capabilities
from detectors.checks import contract, purity, scoring, sense, state
from detectors.checks.sources import sample
from detectors.checks.subject import CheckError, Subject, small
from detectors.detector import Budget, Detector

__all__ = ["Check", "CheckError", "checks_for"]


@dataclass(frozen=True)
class Check:
    """One check of one detector class.

    Attributes
    ----------
    name
        Function, and in brackets the data that it runs on.
    run
        Raises :class:`CheckError` if the detector fails.
    waived
        Why it does not apply, else empty.
    """

    name: str
    run: Callable[[], None]
    waived: str = ""


def checks_for(
    cls: type[Detector], *, budget: Budget | None = None, **settings: Any
) -> list[Check]:
    """Choose the checks that ``cls`` has to pass.

    Parameters
    ----------
    cls
        The detector class.
    budget
        Limits for the fits that must learn something.
    **settings
        Settings other than the defaults, for instance to train a smaller network.
    """
    subject = Subject(cls, settings, budget or Budget())
    inputs = subject.inputs()
    checks = [_check(subject, function, inputs[0], function.__name__) for function in _ONCE]
    for kind, choose in ((inputs, _for_input), (cls.caps.sources, _for_source)):
        checks += [
            _check(subject, function, data, f"{function.__name__}[{data}]")
            for data in kind
            for function in choose(cls.caps, data)
        ]
    return checks


_Function = Callable[[Subject, Any], None]

_ONCE: tuple[_Function, ...] = (
    contract.documented,
    contract.capabilities_stated,
    contract.settings_validated,
    contract.fit_reported,
    contract.labels_honest,
    state.unfitted_refused,
    state.tampering_refused,
    state.every_tensor_needed,
    state.bounded_state,
    state.round_trip,
    purity.instances_independent,
    purity.ambient_state_untouched,
)

_PER_INPUT: tuple[_Function, ...] = (
    scoring.batch_invariance,
    scoring.permutation_equivariance,
    scoring.empty_batch,
    scoring.explanations,
    scoring.one_value_only,
    scoring.few_windows,
    scoring.other_shape,
    scoring.longer_windows,
    purity.input_untouched,
    purity.nothing_shared,
    purity.scoring_changes_nothing,
    state.same_seed_same_scores,
    state.incremental,
    sense.device_parity,
)

_WITH_STEPS: tuple[_Function, ...] = (scoring.hidden_values, scoring.padding_length)

_WITH_NUMBERS: tuple[_Function, ...] = (
    scoring.missing_numbers,
    scoring.extreme_numbers,
    scoring.double_precision,
)


def _for_input(caps: Capabilities, name: str) -> list[_Function]:
    data = small(name)
    chosen = [*_PER_INPUT]
    if data.steps > 1:
        chosen += _WITH_STEPS
    if data.features:
        chosen += _WITH_NUMBERS
    if caps.loop != "statistics":
        chosen.append(state.seed_matters)
    return chosen


def _for_source(caps: Capabilities, source: Any) -> list[_Function]:
    data = sample(source).normal
    chosen: list[_Function] = [sense.ranks_anomalies_higher]
    if data.features and not caps.uses_labels:  # labels may teach that one direction is harmless
        chosen.append(sense.rises_with_the_anomaly)
    if caps.per_feature and data.features + data.fields > 1:
        chosen.append(sense.blames_the_feature)
    if caps.per_step and (data.steps > 1 or _to_cut(caps) == source):
        chosen.append(sense.blames_the_step)
    return chosen


def _to_cut(caps: Capabilities) -> str:
    """Name the source of records to cut into steps: who takes series and names none gets one."""
    of_records = all(sample(source).normal.steps == 1 for source in caps.sources)
    return caps.sources[0] if "series" in caps.kinds and of_records else ""


def _check(subject: Subject, function: _Function, data: str, name: str) -> Check:
    waived = subject.cls.caps.waived
    reason = waived.get(name) or waived.get(function.__name__, "")
    if function is sense.device_parity and not torch.cuda.is_available():
        reason = reason or "no CUDA device here"
    return Check(name, functools.partial(function, subject, data), reason)
