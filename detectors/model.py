"""A model: a fitted detector with all it needs to score the windows of one route.

It takes windows as the pipeline keeps them, as arrays of raw numbers and category codes, and
gives back arrays. Vocabularies, log templates and calibration scores travel with the detector,
so training and serving cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from detectors import artefact
from detectors.catalogue import create, detector_class, from_files
from detectors.crossing import cross_scores
from detectors.detector import Budget, Detector
from detectors.learn import Learn, marks_of, scores_of, windows_per_day
from detectors.signals import Reference, references
from detectors.split import (
    FULL,
    PARTIAL,
    calibration_of,
    held_out,
    is_crossed,
    spread,
    up_to_date,
)
from detectors.vocabulary import Vocabulary
from detectors.windows import Layout, WindowArrays, WindowEncoder
from schemas.errors import ArtefactError

MODEL = "model.json"
CALIBRATION = "calibration.safetensors"
FIT_SIZE = 100_000


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """Content of ``model.json``.

    ``reference`` says how the levels of blocks of windows lay on the calibration
    windows, for the score (logarithmic) and for each number: what drift is measured by.

    ``windows_per_day`` is the rate of the history that the model was fitted on, ``data_from`` and
    ``data_to`` its event times in ns.
    """

    layout: Layout
    vocabularies: tuple[Vocabulary, ...]
    templates: tuple[str, ...] = ()
    windows_per_day: float
    data_from: int
    data_to: int
    parent_id: str | None = None
    reference: dict[str, Reference] = {}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why ``W`` windows scored as they did.

    ``share`` ``[W, T, E]``: parts of the features that :func:`feature_columns` names; they sum
    to 1. ``expected`` ``[W, T, F]`` in the units of the input, if the detector predicts.
    """

    share: NDArray[np.float64]
    expected: NDArray[np.float64] | None


class Model:
    """A fitted detector, its vocabularies and its calibration scores.

    ``calibration`` holds scores of normal windows that the detector was not fitted on: those of
    ``full`` windows, and apart from them those of ``partial`` ones, which are shorter because their
    key is new. Few steps score differently from many, so each kind is judged by its own.
    """

    def __init__(
        self,
        description: Description,
        detector: Detector,
        calibration: dict[str, NDArray[np.float64]],
    ) -> None:
        self.description = description
        self.detector = detector
        self.calibration = calibration
        self._encode = WindowEncoder(description.layout, description.vocabularies)
        self.model_id = artefact.manifest_of(self.to_files()).artefact_id

    @classmethod
    def fit(
        cls,
        layout: Layout,
        windows: WindowArrays,
        *,
        detector: str,
        settings: Mapping[str, Any] | None = None,
        labels: NDArray[np.int8] | None = None,
        templates: tuple[str, ...] = (),
        parent_id: str | None = None,
        changed_at: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        budget: Budget | None = None,
    ) -> Model:
        """Fit on the older windows and calibrate on the newer ones, which the fit never sees.

        Sessions, where they are few and fitting costs little, are all fitted on and all calibrate,
        each by its score from a fit without it (:mod:`detectors.crossing`).

        Where the stream ``changed_at`` some time, both are taken from before and from after it,
        and what came before does not outweigh what came after.

        Raises
        ------
        DataError
            If there are fewer than 20 windows.
        """
        marks = marks_of(layout, windows, labels)
        order = np.argsort(windows.time, kind="stable")
        short = windows.length[order] < layout.steps
        change = 0 if changed_at is None else int(np.searchsorted(windows.time[order], changed_at))
        held = np.concatenate([held_out(short[:change]), held_out(short[change:])])
        crossed = is_crossed(detector_class(detector).caps, short)
        if crossed:
            held[:] = False
        anomalous = marks == 1
        fitted_on = up_to_date(order, ~held, change, keep=anomalous)
        older = spread(fitted_on, FIT_SIZE, keep=anomalous)
        newer = up_to_date(order, held & ~anomalous[order], change)
        learn = Learn(
            layout,
            windows,
            marks,
            lambda: create(detector, seed=seed, device=device, **(settings or {})),
            budget,
        )
        fitted, encode, vocabularies = learn(order[~held], older)
        if crossed:
            newer = older[~anomalous[older]]
            scores = cross_scores(older, learn.scores)[~anomalous[older]]
        else:
            scores = scores_of(fitted, encode(windows[newer]))
        description = Description(
            layout=layout,
            vocabularies=vocabularies,
            templates=templates,
            windows_per_day=windows_per_day(windows),
            data_from=int(windows.time[order[0]]),
            data_to=int(windows.time[order[-1]]),
            parent_id=parent_id,
            reference=references(layout, windows[newer], scores),
        )
        partial = windows[newer].length < layout.steps
        return cls(description, fitted, calibration_of(partial, scores))

    @property
    def can_be_updated(self) -> bool:
        """Whether its detector can learn more."""
        return self.detector.caps.partial_fit != "none"

    def updated(
        self,
        windows: WindowArrays,
        *,
        labels: NDArray[np.int8] | None = None,
        budget: Budget | None = None,
    ) -> Model:
        """Return a model that has learned from newer windows as well; this one stays as it is.

        The newest of them calibrate it, and are left for the next update to learn. Vocabularies
        and templates stay: what they do not know remains new.

        Raises
        ------
        DataError
            If there are fewer than 20 windows, or the detector cannot learn more.
        """
        layout, device = self.description.layout, self.detector.device
        marks = marks_of(layout, windows, labels)
        order = np.argsort(windows.time, kind="stable")
        held = held_out(windows.length[order] < layout.steps)
        learner = from_files(self.detector.to_files(), self.model_id, device=device)
        rows = order[~held]
        if not learner.caps.uses_labels:
            rows = rows[marks[rows] != 1]
        learner.partial_fit(self._encode(windows[rows]), marks[rows], budget=budget)
        newer = order[held & (marks[order] != 1)]
        scores = scores_of(learner, self._encode(windows[newer]))
        description = msgspec.structs.replace(
            self.description,
            windows_per_day=windows_per_day(windows),
            data_to=int(windows.time[rows].max()),
            parent_id=self.model_id,
            reference=references(layout, windows[newer], scores),
        )
        partial = windows[newer].length < layout.steps
        return Model(description, learner, calibration_of(partial, scores))

    # -- scoring ----------------------------------------------------------------------------

    def score(self, windows: WindowArrays) -> NDArray[np.float64]:
        """Return the ``[W]`` scores of windows."""
        return scores_of(self.detector, self._encode(windows))

    def explain(self, windows: WindowArrays) -> Explanation:
        """Say what made the scores of windows; slower than :meth:`score`."""
        scores = self.detector.score(self._encode(windows), explain="full")
        width = windows.num.shape[2] + bool(windows.num.shape[2]) + windows.cat.shape[2]
        share = np.zeros((*windows.num.shape[:2], width))
        if scores.feature is not None:
            share[:] = scores.feature.to("cpu", torch.float64).numpy()
        elif scores.step is not None:
            step = scores.step.to("cpu", torch.float64).numpy()
            share[:] = step[:, :, None] / width
        else:
            real = np.arange(share.shape[1]) < windows.length[:, None]
            share[:] = real[:, :, None] / width
        share /= np.maximum(share.sum(axis=(1, 2), keepdims=True), 1e-300)
        expected = None
        if scores.expected is not None and windows.num.shape[2]:
            expected = scores.expected.to("cpu", torch.float64).numpy()[..., : windows.num.shape[2]]
        return Explanation(share, expected)

    # -- files ------------------------------------------------------------------------------

    def to_files(self) -> dict[str, bytes]:
        """Everything that the model is made of, as ``file name -> content``."""
        return {
            **self.detector.to_files(),
            MODEL: msgspec.json.format(msgspec.json.encode(self.description)),
            CALIBRATION: safetensors.numpy.save(self.calibration),
        }

    @classmethod
    def from_files(cls, files: dict[str, bytes], where: str, *, device: str = "cpu") -> Model:
        """Rebuild a model from the files of an artefact directory, manifest included.

        Raises
        ------
        ArtefactError
            If a file is missing, was altered or cannot be understood.
        """
        content = artefact.unpack(files, where)
        try:
            description = msgspec.json.decode(content[MODEL], type=Description)
            stored = safetensors.numpy.load(content[CALIBRATION])
            calibration = {kind: stored[kind] for kind in (FULL, PARTIAL)}
        except (KeyError, msgspec.DecodeError) as error:
            msg = f"{where}: not a model ({error}); fit it again"
            raise ArtefactError(msg) from error
        return cls(description, from_files(content, where, device=device), calibration)

    def check_layout(self, layout: Layout) -> None:
        """Refuse to serve windows of another layout.

        Raises
        ------
        ArtefactError
            Naming what differs.
        """
        mine = msgspec.to_builtins(self.description.layout)
        for name, wanted in msgspec.to_builtins(layout).items():
            if mine[name] != wanted:
                msg = (
                    f"model {self.model_id} of {layout.stream}/{layout.route} was made for "
                    f"{name} = {mine[name]!r}, the pipeline has {wanted!r}; fit a new model"
                )
                raise ArtefactError(msg)
