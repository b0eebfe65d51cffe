"""The detector class under check: its test data, and fits that several checks share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.batch import NEW, WindowBatch
from detectors.capabilities import Source
from detectors.checks.sources import Sample, sample
from detectors.detector import Budget, Detector
from detectors.scores import Scores

QUICK = Budget(steps=2)
"""Enough training for checks of mechanics, which hold for a bad model as for a good one."""

ATOL, RTOL = 1e-5, 1e-4
"""Two scores of one window count as equal within this: matrix products of other sizes sum in
another order."""

WINDOWS = 48
"""Size of the small data sets; even, and more than any batch-level statistic would hide in."""

ALL_INPUTS = ("record", "mixed", "series", "sequence", "events", "catrec", "graph")


class CheckError(AssertionError):
    """A detector does not keep the contract; the message says what was found."""


def require(holds: object, message: str) -> None:
    """Raise :class:`CheckError` unless ``holds``; unlike ``assert`` also under ``python -O``."""
    if not holds:
        raise CheckError(message)


def require_close(found: Tensor, expected: Tensor, what: str) -> None:
    """Require equality up to the order of summation."""
    require(found.shape == expected.shape, f"{what}: {list(found.shape)}, {list(expected.shape)}")
    gap = (found.double() - expected.double()).abs()
    excess = gap - (ATOL + RTOL * expected.double().abs())
    require(
        not (excess > 0).any() and not found.isnan().any(),
        f"{what}: scores differ by up to {float(gap.max()) if gap.numel() else 0:.3g}",
    )


@dataclass
class Subject:
    """A detector class with the settings and the training budget that its checks use.

    Attributes
    ----------
    cls, settings
        What to check.
    budget
        Limits for fits that must learn something; checks of mechanics take two steps.
    """

    cls: type[Detector]
    settings: dict[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    _quick: dict[str, Detector] = field(default_factory=dict)
    _trained: dict[Source, Detector] = field(default_factory=dict)

    def new(self, seed: int = 0, **settings: Any) -> Detector:
        """Make an unfitted detector."""
        return self.cls(seed=seed, **{**self.settings, **settings})

    def inputs(self) -> list[str]:
        """Which of ``ALL_INPUTS`` the detector takes."""
        by_kind = {
            "record": ["record", "mixed"],
            "series": ["series", "sequence"],
            "events": ["events"],
            "catrec": ["catrec"],
            "graphwin": ["graph"],
            "bag": ["series", "sequence", "events"],
        }
        caps = self.cls.caps
        if caps.attributes:
            by_kind["catrec"].append("mixed")
        return [name for kind in caps.kinds if kind in by_kind for name in by_kind[kind]]

    def labels(self, n: int) -> NDArray[np.int8] | None:
        """Labels for ``n`` windows where the detector needs any: the first few are anomalies."""
        least = self.cls.caps.min_labels
        if not least:
            return None
        labels = np.full(n, -1, dtype=np.int8)
        labels[: least + 1] = 1
        return labels

    def fit(self, data: WindowBatch, seed: int = 0, **settings: Any) -> Detector:
        """Fit a new detector briefly."""
        detector = self.new(seed, **settings)
        return detector.fit(data, self.labels(len(data)), budget=QUICK)

    def quick(self, name: str) -> Detector:
        """Return a detector fitted briefly on :func:`small` data ``name``; leave it as it is."""
        if name not in self._quick:
            self._quick[name] = self.fit(small(name))
        return self._quick[name]

    def trained(self, source: Source) -> Detector:
        """Return a detector that has learned ``source``; leave it as it is."""
        if source not in self._trained:
            self._trained[source] = self.learn(sample(source))
        return self._trained[source]

    def learn(self, data: Sample) -> Detector:
        """Fit a new detector with all the training that it needs."""
        labels = self.labels(len(data.train)) if data.labels is None else data.labels
        return self.new().fit(data.train, labels, budget=self.budget)


_VOCAB = {
    "mixed": (9, 90),
    "sequence": (9,),
    "events": (9,),
    "catrec": (9, 90),
    "graph": (9, 9),
}


def small(name: str, seed: int = 1, windows: int = WINDOWS) -> WindowBatch:
    """Draw a small data set of one of ``ALL_INPUTS``; where there are steps, of all lengths."""
    rng = np.random.default_rng(seed)
    steps = 1 if name in ("record", "mixed", "catrec") else 6
    features = {"record": 5, "mixed": 3, "series": 4, "sequence": 2, "graph": 2}.get(name, 0)
    vocab = _VOCAB.get(name, ())
    lengths = torch.from_numpy(rng.integers(1, steps + 1, size=windows))
    lengths[: windows // 2] = steps
    mask = torch.arange(steps) < lengths.unsqueeze(1)
    latent = rng.normal(size=(windows, steps, 2)).cumsum(axis=1)
    num = latent @ rng.normal(size=(2, features)) + 0.3 * rng.normal(
        size=(windows, steps, features)
    )
    ids = [rng.integers(NEW + 1, size, size=(windows, steps)) for size in vocab]
    cat = np.stack(ids, axis=2) if ids else np.zeros((windows, steps, 0), dtype=np.int64)
    return WindowBatch(
        num=torch.from_numpy(num).float().masked_fill(~mask.unsqueeze(2), 0.0),
        cat=torch.from_numpy(cat).masked_fill(~mask.unsqueeze(2), 0),
        mask=mask,
        vocab=vocab,
    )


def join(batches: list[WindowBatch]) -> WindowBatch:
    """Put windows of equal shape behind each other."""
    return WindowBatch.concatenate(batches)


def copy(batch: WindowBatch) -> WindowBatch:
    """Copy, sharing no memory."""
    return replace(batch, num=batch.num.clone(), cat=batch.cat.clone(), mask=batch.mask.clone())


def tensors(scores: Scores) -> dict[str, Tensor]:
    """Return the parts of ``scores`` that are there."""
    names = ("score", "step", "feature", "expected", "uncertainty")
    parts = {name: getattr(scores, name) for name in names}
    return {name: part for name, part in parts.items() if part is not None}


@contextmanager
def refused(
    kind: type[Exception] | tuple[type[Exception], ...], what: str, *words: str
) -> Iterator[None]:
    """Require that the block raises ``kind`` with a message that holds all ``words``."""
    try:
        yield
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        require(not missing, f"{what}: the message {str(error)!r} does not say {missing}")
        return
    msg = f"{what}: accepted"
    raise CheckError(msg)
