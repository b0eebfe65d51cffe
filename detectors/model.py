"""A model: a fitted detector with all it needs to score the windows of one route.

It takes windows as the pipeline keeps them, as arrays of raw numbers and category codes, and
gives back arrays. Vocabularies, log templates and calibration scores travel with the detector,
so training and serving cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from detectors import artefact
from detectors.batch import WindowBatch
from detectors.catalogue import create, from_files
from detectors.detector import Budget, Detector
from detectors.vocabulary import Vocabulary, VocabularyIndex
from schemas.errors import ArtefactError, DataError

MODEL = "model.json"
CALIBRATION = "calibration.safetensors"
MISSING = "missing"
GAP = "gap"
SCORE = "score"
BLOCK = 64
SCORE_FLOOR = 0.1
CALIBRATION_SHARE = 0.3
FULL, PARTIAL = "full", "partial"
CALIBRATION_SIZE = 8192
BEFORE_LEAST = 1000
FIT_SIZE = 100_000


class Layout(msgspec.Struct, frozen=True):
    """What the windows of a route look like; two layouts that differ never share a model.

    Attributes
    ----------
    stream, route
        Names.
    steps, numbers, categories
        Steps of a window, and names of its numeric and category features.
    window
        The window specification, as text.
    """

    stream: str
    route: str
    steps: int
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    window: str


class Reference(msgspec.Struct, frozen=True):
    """Mean and spread of a signal's levels over blocks of normal windows."""

    mean: float
    spread: float


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """Content of ``model.json``.

    ``reference`` says how the levels of blocks of :data:`BLOCK` windows lay on the calibration
    windows, for the score (as :func:`log_scores`) and for each number: what drift is measured by.

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
class WindowArrays:
    """Windows as the pipeline keeps them, oldest first.

    ``num`` float32 ``[W, T, F]`` with ``NaN`` where missing, ``cat`` int32 codes ``[W, T, C]``,
    ``length`` ``[W]`` real steps, ``time`` ``[W]`` event time of the last record in ns.
    """

    num: NDArray[np.float32]
    cat: NDArray[np.int32]
    length: NDArray[np.int64]
    time: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.length)

    def __getitem__(self, rows: Any) -> WindowArrays:
        """Pick windows."""
        return WindowArrays(self.num[rows], self.cat[rows], self.length[rows], self.time[rows])


def feature_columns(layout: Layout) -> list[str]:
    """Name what a model explains by: numbers, missing values if there are numbers, categories."""
    missing = [MISSING] if layout.numbers else []
    return [*layout.numbers, *missing, *layout.categories]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why ``W`` windows scored as they did.

    ``share`` ``[W, T, E]``: parts of the features that :func:`feature_columns` names; they sum
    to 1. ``expected`` ``[W, T, F]`` in the units of the input, if the detector predicts.
    """

    share: NDArray[np.float64]
    expected: NDArray[np.float64] | None


class WindowEncoder:
    """Turns windows into tensors: ids for codes, and a count of missing numbers at each step.

    The gap before a key's first record does not count as missing: it cannot be known.
    """

    def __init__(self, layout: Layout, vocabularies: Sequence[Vocabulary]) -> None:
        self._counted = [i for i, name in enumerate(layout.numbers) if name != GAP]
        self._index = VocabularyIndex(vocabularies)
        self._sizes = tuple(len(vocabulary) for vocabulary in vocabularies)

    def __call__(self, windows: WindowArrays) -> WindowBatch:
        """Encode windows for a detector."""
        num, steps = windows.num, windows.num.shape[1]
        if num.shape[2]:
            counted = num[:, :, self._counted]
            missing = np.isnan(counted).sum(axis=2, keepdims=True, dtype=np.float32)
            num = np.concatenate([num, missing], axis=2)
        mask = np.arange(steps) < windows.length[:, None]
        return WindowBatch(
            num=torch.from_numpy(num),
            cat=torch.from_numpy(self._index(windows.cat)),
            mask=torch.from_numpy(mask),
            vocab=self._sizes,
        )


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

        Where the stream ``changed_at`` some time, both are taken from before and from after it,
        and what came before does not outweigh what came after.

        Raises
        ------
        DataError
            If there are fewer than 20 windows.
        """
        if len(windows) < 20:
            msg = (
                f"{layout.stream}/{layout.route}: {len(windows)} windows are too few to fit and "
                "calibrate on (20 at least); give more history"
            )
            raise DataError(msg)
        marks = np.full(len(windows), -1, dtype=np.int8) if labels is None else labels
        order = np.argsort(windows.time, kind="stable")
        short = windows.length[order] < layout.steps
        change = 0 if changed_at is None else int(np.searchsorted(windows.time[order], changed_at))
        held = np.concatenate([_held_out(short[:change]), _held_out(short[change:])])
        anomalous = marks == 1
        fitted_on = _up_to_date(order, ~held, change, keep=anomalous)
        older = _spread(fitted_on, FIT_SIZE, keep=anomalous)
        newer = _up_to_date(order, held & ~anomalous[order], change)
        real = np.arange(layout.steps) < windows.length[order[~held], None]
        codes = windows.cat[order[~held]][real]
        first, last = int(windows.time[order[0]]), int(windows.time[order[-1]])
        description = Description(
            layout=layout,
            vocabularies=tuple(Vocabulary.fit(codes[:, c]) for c in range(codes.shape[1])),
            templates=templates,
            windows_per_day=len(windows) / max((last - first) / 86_400e9, 1e-6),
            data_from=first,
            data_to=last,
            parent_id=parent_id,
        )
        encode = WindowEncoder(layout, description.vocabularies)
        fitted = create(detector, seed=seed, device=device, **(settings or {}))
        fitted.fit(encode(windows[older]), marks[older], budget=budget)
        calibration = {}
        partial = windows.length[newer] < layout.steps
        for kind, which in ((FULL, newer[~partial]), (PARTIAL, newer[partial])):
            calibration[kind] = _scores(fitted, encode(windows[_spread(which, CALIBRATION_SIZE)]))
        if not len(calibration[FULL]):  # windows that are hardly ever full, such as sessions
            calibration[FULL] = calibration[PARTIAL]
        reference = _reference(layout, windows[newer], _scores(fitted, encode(windows[newer])))
        description = msgspec.structs.replace(description, reference=reference)
        return cls(description, fitted, calibration)

    # -- scoring ----------------------------------------------------------------------------

    def score(self, windows: WindowArrays) -> NDArray[np.float64]:
        """Return the ``[W]`` scores of windows."""
        return _scores(self.detector, self._encode(windows))

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


def log_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compress scores, whose scale is each detector's own; negative ones keep their order."""
    return np.sign(scores) * np.log1p(np.abs(scores))


def signals(windows: WindowArrays, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[W, 1 + F]`` what drift is looked for in: log scores, numbers of the last step."""
    last = windows.num[np.arange(len(windows)), windows.length - 1].astype(np.float64)
    return np.concatenate([log_scores(scores)[:, None], last], axis=1)


def block_levels(block: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the level of each column of :func:`signals` in a block of windows.

    The median for numbers: it hardly feels anomalies, but a drift moves it. The mean for the log
    score, since the scores of some detectors are mostly zero and so is their median.
    """
    present = ~np.isnan(block).all(axis=0)
    levels: NDArray[np.float64] = np.nanmedian(np.where(present, block, 0.0), axis=0)
    levels[0] = block[:, 0].mean()
    return np.where(present, levels, np.nan)


def _scores(detector: Detector, batch: WindowBatch) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = detector.score(batch).score.to("cpu", torch.float64).numpy()
    return scores


def _reference(
    layout: Layout, windows: WindowArrays, scores: NDArray[np.float64]
) -> dict[str, Reference]:
    values = signals(windows, scores)
    blocks = max(len(values) // BLOCK, 1)
    levels = np.stack([block_levels(part) for part in np.array_split(values, blocks)])
    within = np.nanstd(values, axis=0) * 1.25 / np.sqrt(BLOCK)  # of a median of independent draws
    reference = {}
    for index, name in enumerate([SCORE, *layout.numbers]):
        column = levels[:, index][~np.isnan(levels[:, index])]
        if len(column):
            mean, spread = float(column.mean()), float(column.std())
            # a few anomalies in a block are no drift of the score
            floor = SCORE_FLOOR if name == SCORE else 1e-3 * (1.0 + abs(mean))
            reference[name] = Reference(mean, max(spread, float(within[index]), floor))
    return reference


def _held_out(partial: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Choose the calibration windows among windows in time order.

    The newest of the full ones; of the partial ones, which all stand at the beginning where keys
    are new, evenly every few.
    """
    held = np.zeros(len(partial), dtype=bool)
    full = np.flatnonzero(~partial)
    held[full[int(len(full) * (1 - CALIBRATION_SHARE)) :]] = True
    short = np.flatnonzero(partial)
    held[short[:: max(1, round(1 / CALIBRATION_SHARE))]] = True
    return held


def _up_to_date(
    order: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    change: int,
    keep: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Take the chosen windows, of those before position ``change`` as many as after it."""
    before, after = order[:change][chosen[:change]], order[change:][chosen[change:]]
    limit = max(len(after), BEFORE_LEAST)
    return np.concatenate([_spread(before, limit, keep), after])


def _spread(
    index: NDArray[np.int64], limit: int, keep: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Thin an index evenly to ``limit``, but never drop what ``keep`` marks."""
    if len(index) <= limit:
        return index
    chosen = np.zeros(len(index), dtype=bool)
    chosen[np.linspace(0, len(index) - 1, limit).astype(np.int64)] = True
    if keep is not None:
        chosen |= keep[index]
    return index[chosen]
