"""The contract of every detector.

A detector learns what is normal from windows (``fit``) and then says how far a window is from it
(``score``): larger is more anomalous, always. It is a pure function of its state: scoring never
reads a clock, a topic or the environment, and changes nothing. Thresholds, p-values and alerts are
not its business.

A new detector is one file with a subclass of :class:`Detector` and one line in
:mod:`detectors.catalogue`; the generic checks in :mod:`detectors.checks` then come free.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
import safetensors.torch
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from detectors import artefact
from detectors.arguments import as_marks, require_fittable
from detectors.batch import WindowBatch, Windows, as_batch
from detectors.capabilities import Capabilities
from detectors.scaling import RobustScaler
from detectors.scores import Explain, Scores
from detectors.seeding import drawing_from
from schemas.errors import ArtefactError, DataError, NotFittedError, ShapeError

DESCRIPTION = "detector.json"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Budget:
    """How much work a fit may do; training stops cleanly at the first limit reached.

    Attributes
    ----------
    seconds, steps
        Limits on time and on optimiser steps; ``None`` leaves the detector's own epochs.
    clock
        Tells the seconds: wall time, or what a measurement that others must not disturb counts,
        such as the time of the processor.
    """

    seconds: float | None = None
    steps: int | None = None
    clock: Callable[[], float] = time.monotonic


@dataclass
class FitReport:
    """What a fit, or the latest update after it, did.

    Attributes
    ----------
    losses
        Mean training loss of each epoch; empty where nothing is trained.
    windows, trimmed
        Windows given since the fit began, and windows left out as too unlike the rest.
    stopped
        Why training ended: ``epochs``, ``early stop``, ``budget`` or ``closed form``.
    seconds
        Wall time.
    """

    losses: list[float] = field(default_factory=list)
    windows: int = 0
    trimmed: int = 0
    stopped: str = "closed form"
    seconds: float = 0.0


class Shape(msgspec.Struct, frozen=True):
    """Sizes that a fitted detector insists on: steps, features, ids of each category field."""

    steps: int
    features: int
    vocab: tuple[int, ...]


class Description(msgspec.Struct, frozen=True):
    """Content of ``detector.json``."""

    detector: str
    config: msgspec.Raw
    seed: int
    shape: Shape


class Detector(ABC):
    """Base of all detectors: argument checks, scaling, chunking, files.

    Parameters
    ----------
    seed
        Every random choice of ``fit`` follows from it.
    device
        Where the tensors live, for instance ``cpu`` or ``cuda``.
    **settings
        Fields of the detector's ``Config``.

    Notes
    -----
    Subclasses set ``caps`` and ``Config`` and implement ``_fit``, ``_score``, ``_state`` and
    ``_restore``. The batches they get are on ``device``, with numbers already scaled and free of
    ``NaN``, and numbers under the mask set to 0 and ids to padding.
    """

    caps: ClassVar[Capabilities]
    Config: ClassVar[type[msgspec.Struct]]
    chunk: ClassVar[int] = 8192
    """Windows scored in one pass on a CPU; bounds memory and changes no score."""
    scaling: ClassVar[type[RobustScaler]] = RobustScaler
    """How numbers are scaled."""

    def __init__(self, *, seed: int = 0, device: str = "cpu", **settings: Any) -> None:
        try:
            self.config: Any = msgspec.convert(settings, self.Config)
        except msgspec.ValidationError as error:
            msg = f"{self.caps.name}: {error}"
            raise DataError(msg) from error
        unknown = settings.keys() - {f.name for f in msgspec.structs.fields(self.Config)}
        if unknown:
            known = ", ".join(f.name for f in msgspec.structs.fields(self.Config))
            msg = f"{self.caps.name}: no setting {sorted(unknown)[0]!r}; it has {known}"
            raise DataError(msg)
        self.seed = seed
        self.device = device
        self.shape: Shape | None = None
        self.report = FitReport()
        self._scaler = self.scaling(torch.zeros(0), torch.ones(0))

    def __repr__(self) -> str:
        state = "not fitted" if self.shape is None else f"fitted on {self.report.windows} windows"
        return f"<{self.caps.name} seed={self.seed} on {self.device}, {state}>"

    # -- learning ---------------------------------------------------------------------------

    def fit(
        self, windows: Windows, labels: ArrayLike | None = None, *, budget: Budget | None = None
    ) -> Self:
        """Learn from scratch; returns itself.

        Parameters
        ----------
        windows
            Window batch, ``[N, F]`` records or ``[N, T, F]`` windows, oldest first.
        labels
            ``[N]``: 1 anomaly, 0 normal, -1 unlabelled. Ignored by detectors without labels.
        budget
            Limits on the work.

        Raises
        ------
        DataError
            If there are no windows, or of a kind that the detector does not take.
        LabelsError
            If labels are needed and fewer than ``caps.min_labels`` anomalies are given, or nothing
            else.
        """
        began = time.perf_counter()
        batch = as_batch(windows)
        self._check_kind(batch)
        marks = self._check_labels(batch, labels, self.caps.min_labels)
        normal = batch if marks is None else batch[(marks != 1).to(batch.mask.device)]
        self._scaler = self.scaling.fit(normal if len(normal) else batch).to(self.device)
        self.shape = Shape(batch.steps, batch.features, batch.vocab)
        self.report = FitReport(windows=len(batch))
        try:
            with drawing_from(self.seed, self.device):
                self._fit(self._prepare(batch), marks, budget or Budget())
        except BaseException:
            self.shape = None
            raise
        self.report.seconds = time.perf_counter() - began
        return self

    def partial_fit(
        self, windows: Windows, labels: ArrayLike | None = None, *, budget: Budget | None = None
    ) -> Self:
        """Learn a little more from new windows, keeping scaler and sizes; returns itself.

        Raises
        ------
        DataError
            If the detector cannot (``caps.partial_fit == "none"``).
        NotFittedError
            Before the first ``fit``.
        """
        if self.caps.partial_fit == "none":
            msg = f"{self.caps.name}: cannot learn incrementally; call fit() on all windows"
            raise DataError(msg)
        began = time.perf_counter()
        batch = self._accept(windows)
        # a detector that needs labels remembers earlier ones: a single new label can be learned
        marks = self._check_labels(batch, labels, least=0)
        self.report = FitReport(windows=self.report.windows + len(batch))
        with drawing_from(self.seed + 1, self.device):
            self._partial_fit(self._prepare(batch), marks, budget or Budget())
        self.report.seconds = time.perf_counter() - began
        return self

    # -- scoring ----------------------------------------------------------------------------

    def score(self, windows: Windows, *, explain: Explain = "none") -> Scores:
        """Score windows; changes nothing, draws nothing at random.

        Parameters
        ----------
        windows
            Windows with the number of features and fields of the fit; shorter ones are taken,
            longer ones only by detectors that pad (``caps.pads``).
        explain
            ``"full"`` also fills in the explanations that ``caps`` promises.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ShapeError
            If the windows have other features, fields or (where it matters) more steps.
        """
        batch = self._accept(windows)
        size = self._at_once(batch.steps)
        parts = [self._score_chunk(part, explain) for part in batch.chunks(size)]
        return Scores.concatenate(parts) if parts else self._score_chunk(batch, explain)

    def _at_once(self, steps: int) -> int:
        """Windows of ``steps`` steps to score in one pass."""
        # smaller chunks are for the caches of a CPU; on another device they would only cost calls
        return self.chunk if self.device == "cpu" else max(self.chunk, Detector.chunk)

    def _score_chunk(self, batch: WindowBatch, explain: Explain) -> Scores:
        if len(batch) == 0:
            return self._empty(batch, explain)
        # by default cuDNN rounds to TF32, and scores would depend on the device and the batch size
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            scores = self._score(self._prepare(batch), explain)
        expected = scores.expected
        if expected is not None:
            expected = self._scaler.inverse(expected)
        return Scores(
            scores.score.float(), scores.step, scores.feature, expected, scores.uncertainty
        )

    def _empty(self, batch: WindowBatch, explain: Explain) -> Scores:
        nothing, caps = torch.zeros(0, batch.steps, device=self.device), self.caps
        if explain == "none":
            return Scores(nothing.sum(dim=1))
        fields = nothing.unsqueeze(2).expand(0, batch.steps, batch.features + batch.fields)
        return Scores(
            nothing.sum(dim=1),
            nothing if caps.per_step else None,
            fields if caps.per_feature else None,
            fields[:, :, : batch.features] if caps.gives_expected else None,
        )

    # -- files ------------------------------------------------------------------------------

    def to_files(self) -> dict[str, bytes]:
        """Everything that a score depends on, as ``file name -> content``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        shape = self._fitted()
        tensors = {
            name: t.detach().to("cpu").contiguous().clone() for name, t in self.tensors().items()
        }
        description = Description(
            self.caps.name, msgspec.Raw(msgspec.json.encode(self.config)), self.seed, shape
        )
        return {
            DESCRIPTION: msgspec.json.format(msgspec.json.encode(description)),
            WEIGHTS: safetensors.torch.save(tensors),
        }

    def save(self, path: str | Path) -> None:
        """Write the detector into the directory ``path``, which is replaced."""
        artefact.write(Path(path), self.to_files())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a score depends on, by name."""
        scaler = {"scaler.center": self._scaler.center, "scaler.scale": self._scaler.scale}
        return {**scaler, **self._state()}

    def take_over(self, shape: Shape, tensors: dict[str, Tensor]) -> None:
        """Go on with what :meth:`tensors` gave; ``KeyError`` if one is missing."""
        tensors = dict(tensors)
        self._scaler = self.scaling(tensors.pop("scaler.center"), tensors.pop("scaler.scale"))
        self.shape = shape
        self._restore(tensors)

    def restore(self, description: Description, weights: bytes) -> Self:
        """Take over the state of a saved detector; returns itself."""
        state = {n: t.to(self.device) for n, t in safetensors.torch.load(weights).items()}
        try:
            self.take_over(description.shape, state)
        except (KeyError, RuntimeError) as error:
            self.shape = None
            msg = f"{WEIGHTS}: does not fit {self.caps.name}: {error}; fit the model again"
            raise ArtefactError(msg) from error
        return self

    # -- what a subclass provides -----------------------------------------------------------

    @abstractmethod
    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        """Learn from scaled windows; fill in ``self.report``. ``self.shape`` is set."""

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        """Learn more; only where ``caps.partial_fit`` is not ``none``."""
        raise NotImplementedError

    @abstractmethod
    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        """Score scaled windows (``B >= 1``); ``expected`` in scaled units."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """All tensors that a score depends on, by name; none may share storage."""

    @abstractmethod
    def _restore(self, state: dict[str, Tensor]) -> None:
        """Take over what ``_state`` gave; ``self.shape`` and ``self.config`` are set."""

    # -- checks -----------------------------------------------------------------------------

    def _fitted(self) -> Shape:
        if self.shape is None:
            msg = f"{self.caps.name}: not fitted; call fit(windows) or load a saved model first"
            raise NotFittedError(msg)
        return self.shape

    def _accept(self, windows: Windows) -> WindowBatch:
        shape, batch, name = self._fitted(), as_batch(windows), self.caps.name
        if batch.features != shape.features or batch.vocab != shape.vocab:
            msg = (
                f"{name}: fitted on {shape.features} features and vocabularies {shape.vocab}, "
                f"got {batch.features} and {batch.vocab}; encode with the model's own encoder"
            )
            raise ShapeError(msg)
        if batch.steps > shape.steps and not self.caps.pads:
            msg = f"{name}: fitted on {shape.steps} steps, got {batch.steps}; shorten the windows"
            raise ShapeError(msg)
        return batch

    def _prepare(self, batch: WindowBatch) -> WindowBatch:
        batch = batch.to(self.device)
        num, cat = self._scaler(batch.num), batch.cat
        if not batch.known_full:
            padding = ~batch.mask.unsqueeze(-1)
            num, cat = num.masked_fill_(padding, 0.0), cat.masked_fill(padding, 0)
        return WindowBatch(num, cat, batch.mask, batch.vocab)

    def _check_kind(self, batch: WindowBatch) -> None:
        require_fittable(self.caps, batch)

    def _check_labels(
        self, batch: WindowBatch, labels: ArrayLike | None, least: int
    ) -> Tensor | None:
        if not self.caps.uses_labels:
            return None
        return as_marks(self.caps, len(batch), labels, least).to(self.device)
