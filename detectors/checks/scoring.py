"""Checks of scores: one per window, whatever else is in the batch, for every input allowed."""

from __future__ import annotations

from dataclasses import replace

import torch

from detectors.batch import WindowBatch
from detectors.checks.subject import (
    Subject,
    join,
    refused,
    require,
    require_close,
    small,
    tensors,
)
from schemas.errors import EddyError, ShapeError


def batch_invariance(subject: Subject, name: str) -> None:
    """Require one score for a window, alone, in any part of a batch, next to any windows."""
    detector, data = subject.quick(name), small(name, seed=2)
    together = detector.score(data).score
    alone = torch.cat([detector.score(data[i : i + 1]).score for i in range(8)])
    require_close(alone, together[:8], "alone and in a batch")
    halves = torch.cat([detector.score(half).score for half in data.chunks(len(data) // 2)])
    require_close(halves, together, "in halves and in one batch")
    strange = replace(data, num=data.num * 100 + 7)
    beside = detector.score(join([data[:4], strange])).score[:4]
    require_close(beside, together[:4], "beside ordinary and beside extreme windows")


def permutation_equivariance(subject: Subject, name: str) -> None:
    """Require that the order of windows changes the order of their scores and nothing else."""
    detector, data = subject.quick(name), small(name, seed=2)
    order = torch.arange(len(data)).flip(0).roll(5)
    expected = tensors(detector.score(data, explain="full"))
    for part, found in tensors(detector.score(data[order], explain="full")).items():
        require_close(found, expected[part][order], f"{part} of permuted windows")


def hidden_values(subject: Subject, name: str) -> None:
    """Require that what stands under the mask changes nothing."""
    detector, data = subject.quick(name), small(name, seed=2)
    hidden = ~data.mask.unsqueeze(2)
    expected = tensors(detector.score(data, explain="full"))
    for value in (1e6, float("nan"), float("inf")):
        filled = replace(
            data, num=data.num.masked_fill(hidden, value), cat=data.cat.masked_fill(hidden, 3)
        )
        for part, found in tensors(detector.score(filled, explain="full")).items():
            require_close(found, expected[part], f"{part} with {value} under the mask")


def padding_length(subject: Subject, name: str) -> None:
    """Require that the number of masked steps after the real ones changes nothing."""
    detector, data = subject.quick(name), small(name, seed=2)
    brief = data[data.lengths <= (data.steps + 1) // 2]
    cut = (data.steps + 1) // 2
    brief = replace(brief, num=brief.num[:, :cut], cat=brief.cat[:, :cut], mask=brief.mask[:, :cut])
    expected = detector.score(brief).score
    longest = data.steps + 3 if detector.caps.pads else data.steps
    for steps in range(cut, longest + 1):
        found = detector.score(brief.padded(steps)).score
        require_close(found, expected, f"{cut} steps padded to {steps}")


def longer_windows(subject: Subject, name: str) -> None:
    """Require that windows longer than those of the fit are taken, or refused, as declared."""
    detector, data = subject.quick(name), small(name, seed=2)
    double = replace(
        data[:4],
        num=torch.cat([data.num[:4]] * 2, dim=1),
        cat=torch.cat([data.cat[:4]] * 2, dim=1),
        mask=torch.ones(4, 2 * data.steps, dtype=torch.bool),
    )
    if detector.caps.pads:
        require(detector.score(double).score.isfinite().all(), "longer windows: infinite scores")
        return
    with refused(ShapeError, "longer windows", detector.caps.name, str(2 * data.steps)):
        detector.score(double)


def empty_batch(subject: Subject, name: str) -> None:
    """Require no scores for no windows, with every part that a full batch would have."""
    detector, data = subject.quick(name), small(name, seed=2)
    empty = tensors(detector.score(data[:0], explain="full"))
    full = tensors(detector.score(data, explain="full"))
    for part, found in full.items():
        if part != "uncertainty":
            require(part in empty, f"empty batch: no {part}")
            expected = [0, *found.shape[1:]]
            require(list(empty[part].shape) == expected, f"empty batch: {part} {empty[part].shape}")


def explanations(subject: Subject, name: str) -> None:
    """Require the explanations that ``caps`` promise, in shape and range, at the same score."""
    detector, data = subject.quick(name), small(name, seed=2)
    caps, shape = detector.caps, (len(data), data.steps)
    plain, full = detector.score(data), detector.score(data, explain="full")
    require(set(tensors(plain)) <= {"score", "uncertainty"}, "explanations that nobody asked for")
    require_close(full.score, plain.score, "with and without explanation")
    require(plain.score.dtype == torch.float32, f"scores are {plain.score.dtype}")
    promised = {"step": caps.per_step, "feature": caps.per_feature, "expected": caps.gives_expected}
    sizes = {
        "step": shape,
        "feature": (*shape, data.features + data.fields),
        "expected": (*shape, data.features),
    }
    for part, promise in promised.items():
        found = getattr(full, part)
        require((found is not None) == promise, f"{part}: promised {promise}, given {not promise}")
        if found is not None:
            require(tuple(found.shape) == sizes[part], f"{part}: {list(found.shape)}")
            require(found.isfinite().all(), f"{part}: not finite")
    if full.step is not None:
        require(not full.step[~data.mask].any(), "step: not 0 under the mask")
    if full.feature is not None:
        require((full.feature >= 0).all(), f"feature: as low as {float(full.feature.min()):.3g}")
        require(not full.feature[~data.mask].any(), "feature: not 0 under the mask")


def missing_numbers(subject: Subject, name: str) -> None:
    """Require that missing numbers, even of a whole feature, are learned from and scored."""
    data = small(name)
    holes = torch.rand(data.num.shape, generator=torch.Generator().manual_seed(3)) < 0.2
    holes[:, :, 0] = True
    holed = replace(data, num=data.num.masked_fill(holes, float("nan")))
    _require_finite(subject, holed, holed, "missing numbers")
    require(
        subject.quick(name).score(holed).score.isfinite().all(), "missing numbers: infinite scores"
    )


def extreme_numbers(subject: Subject, name: str) -> None:
    """Require finite scores after and of constant, huge and tiny numbers, of infinite ones too."""
    data = small(name)
    for what, num in {
        "constant numbers": torch.full_like(data.num, 3.0),
        "zeros": torch.zeros_like(data.num),
        "huge numbers": data.num * 1e30,
        "tiny numbers": data.num * 1e-30,
        "one huge number": data.num.index_fill(0, torch.tensor([3]), 1e30),
    }.items():
        _require_finite(subject, replace(data, num=num), data, what)
    detector = subject.quick(name)
    for value in (1e30, -1e30, float("inf"), float("-inf")):
        extreme = replace(data, num=torch.full_like(data.num, value))
        require(detector.score(extreme).score.isfinite().all(), f"scoring {value}: infinite")
    infinite = data.num.clone()
    infinite[0, 0, 1] = float("inf")
    with refused(EddyError, "fitting on infinity", "feature 1"):
        subject.fit(replace(data, num=infinite))


def _require_finite(subject: Subject, train: WindowBatch, other: WindowBatch, what: str) -> None:
    detector = subject.fit(train)
    for windows in (train, other):
        for part, found in tensors(detector.score(windows, explain="full")).items():
            require(found.isfinite().all(), f"fit on {what}: {part} not finite")


def one_value_only(subject: Subject, name: str) -> None:
    """Require finite scores after training windows that are all equal."""
    data = small(name)
    detector = subject.fit(data[torch.zeros(len(data), dtype=torch.int64)])
    require(detector.score(data).score.isfinite().all(), "fit on equal windows: infinite scores")


def few_windows(subject: Subject, name: str) -> None:
    """Require that a handful of windows is learned from or refused with a reason."""
    data = small(name)
    for n in (1, 2, 5):
        try:
            detector = subject.fit(data[:n])
        except EddyError:
            continue
        require(detector.score(data).score.isfinite().all(), f"fit on {n} windows: infinite scores")


def double_precision(subject: Subject, name: str) -> None:
    """Require that numbers in float64 score as in float32."""
    detector, data = subject.quick(name), small(name, seed=2)
    wide = replace(data, num=data.num.double())
    require_close(detector.score(wide).score, detector.score(data).score, "float64 and float32")
    learned = subject.fit(replace(small(name), num=small(name).num.double()))
    require(learned.score(data).score.isfinite().all(), "fit on float64: infinite scores")


def other_shape(subject: Subject, name: str) -> None:
    """Require that windows with other features or vocabularies are refused by name."""
    detector, data = subject.quick(name), small(name, seed=2)
    wide = replace(data, num=torch.cat([data.num, data.num[:, :, :1], data.num[:, :, :1]], dim=2))
    if data.features:
        with refused(ShapeError, "other features", detector.caps.name, str(wide.features)):
            detector.score(wide)
    if data.fields:
        vocab = (data.vocab[0] + 1, *data.vocab[1:])
        with refused(ShapeError, "other vocabulary", detector.caps.name, str(vocab[0])):
            detector.score(replace(data, vocab=vocab))
