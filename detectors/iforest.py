"""Isolation forest: windows that random cuts separate quickly from the rest."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.device import beside
from detectors.inputs import LEAST_SPAN, RecordInput
from detectors.loops.trees import pick
from detectors.scores import Explain, Scores
from schemas.errors import DataError

EULER = 0.5772156649015329
GROWN_AT_ONCE = 1 << 22
"""Values (trees times rows times columns) that are split together; bounds the memory of a fit."""


class IsolationForest(Detector):
    """How few random cuts it takes to set a window apart, as a score in (0, 1).

    Every tree is grown on ``sample`` windows: a node draws a column among those that still vary
    in it and a threshold between their extremes, down to depth ``ceil(log2 sample)``. With the
    mean depth ``h(x)`` over all trees, where a leaf of ``n`` windows adds the ``c(n)`` cuts that
    it would still take, the score is ``2^(-h(x) / c(sample))``: 0.5 is ordinary.

    A cut earns ``c(n) - 1 - c(n')`` when it leaves ``n'`` of ``n`` windows. These gains add up to
    ``c(sample) - h(x)``, so that summed per column they attribute the score exactly; only
    positive sums are reported.

    All trees are complete binary trees in flat tables: scoring is one gather per level. Entries
    under padding are read as medians, on which no window is isolated.

    Settings
    --------
    trees, sample
        Number of trees, and windows that each is grown on.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D = T * E``; state
    ``trees * sample``; ``trees * log2 sample`` comparisons a window, whatever ``D``.

    References
    ----------
    Liu, Ting and Zhou 2008 and 2012, *Isolation-based anomaly detection* (section 3, equations 1
    and 2). Survey: Pang et al. 2020, section 5.2.2, as a classical measure. Adaptations: complete
    trees in tables, attribution by gains; another value in a column that never varied in the fit,
    which no tree cuts, ends paths as if they did.
    """

    caps = Capabilities(
        name="iforest",
        section="baseline: Liu et al. 2012",
        supervision="unsupervised",
        kinds=("record", "series"),
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="statistics",
        sources=("CLUSTERS", "ONESIDED"),
    )

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Settings; see the class."""

        trees: Annotated[int, msgspec.Meta(ge=1)] = 100
        sample: Annotated[int, msgspec.Meta(ge=2)] = 256

    chunk = 2048  # tables and intermediate results of a chunk stay in the processor's cache

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        if len(data) < 2:
            msg = f"{self.caps.name}: one window cannot be set apart from others; give it more"
            raise DataError(msg)
        self._input = RecordInput.fit(data)
        size = min(self.config.sample, len(data))
        self._depth = max(1, math.ceil(math.log2(size)))
        self._usual = float(_cuts(torch.tensor([float(size)])))
        together = max(1, GROWN_AT_ONCE // (size * self._input.width))
        grown = []
        for start in range(0, self.config.trees, together):
            trees = min(together, self.config.trees - start)
            rows = torch.stack([torch.randperm(len(data))[:size] for _ in range(trees)])
            x = self._input.flatten(data[beside(rows.flatten(), data.mask)])
            grown.append(_grow(x.view(trees, size, -1), self._depth))
        self._column, self._threshold, self._gain, self._length = (
            torch.cat(tables) for tables in zip(*grown, strict=True)
        )
        parts = [self._input.flatten(part) for part in data.chunks(self.chunk)]
        self._low = torch.stack([part.amin(dim=0) for part in parts]).amin(dim=0)
        high = torch.stack([part.amax(dim=0) for part in parts]).amax(dim=0)
        self._constant = high - self._low < LEAST_SPAN

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        x = self._input.flatten(data)
        inner = self._column.shape[1]
        # 32 bits: what moves through the caches is halved
        count = torch.arange(max(len(x), len(self._column)), device=x.device, dtype=torch.int32)
        root = count[: len(self._column)].unsqueeze(1) * inner
        node = root.expand(-1, len(x)).clone()  # [trees, B], indices into the flat tables
        first = count[: len(x)] * x.shape[1]
        credit = torch.zeros_like(x) if explain == "full" else None
        for _ in range(self._depth):
            entry = pick(self._column, node).add_(first)
            right = pick(x, entry) > pick(self._threshold, node)
            node.mul_(2).add_(right)
            if credit is not None:
                credit.view(-1).index_add_(0, entry.view(-1), pick(self._gain, node).view(-1))
            node.sub_(root - 1)
        # the bottom level comes after the inner nodes, and its table is one longer than theirs
        bottom = node - inner + root.div(inner, rounding_mode="floor")
        length, moved = pick(self._length, bottom), self._moved(x, data)
        if x.is_cuda or moved.any():  # to look makes no host wait on the CPU
            shorter = self._cut_off(length, moved)
            if credit is not None:
                gained = (length - shorter).sum(dim=0) / moved.sum(dim=1).clamp(min=1)
                credit += moved * gained.unsqueeze(1)
            length = shorter
        score = torch.exp2(-length.mean(dim=0) / self._usual)
        if credit is None:
            return Scores(score)
        return self._input.explained(data, score, credit)

    def _moved(self, x: Tensor, data: WindowBatch) -> Tensor:
        """``[B, D]``: which columns never varied in the fit and have another value now."""
        elsewhere = (x - self._low).abs() > LEAST_SPAN
        return elsewhere & self._constant & self._input.real(data)

    def _cut_off(self, length: Tensor, moved: Tensor) -> Tensor:
        """Path lengths ``[trees, B]`` where cuts of columns that have ``moved`` end them early.

        A cut of such a column, had the sample held the window, would set it apart at once; a cut
        meets one of ``k`` of them, beside ``D`` that vary, with probability ``q = k / (D + k)``.
        The length is then ``1 + (1 - q) + (1 - q)² + ...`` over as many cuts as there were.
        """
        count = moved.sum(dim=1)
        share = count / (count + (~self._constant).sum()).clamp(min=1)
        ended = (1 - (1 - share) ** length) / share.clamp(min=torch.finfo(share.dtype).tiny)
        return torch.where(count > 0, ended, length)

    def _state(self) -> dict[str, Tensor]:
        return {
            "column": self._column,
            "threshold": self._threshold,
            "gain": self._gain,
            "length": self._length,
            "low": self._low,
            "constant": self._constant,
            "usual": torch.tensor(self._usual, dtype=torch.float64),
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        shape = self._fitted()
        self._column, self._threshold = state["column"], state["threshold"]
        self._gain, self._length = state["gain"], state["length"]
        self._low, self._constant = state["low"], state["constant"]
        self._depth = (self._length.shape[1] - 1).bit_length()
        self._usual = float(state["usual"])
        self._input = RecordInput.from_state(state, "input.", shape)


def _cuts(size: Tensor) -> Tensor:
    """``c(n)``: mean number of cuts that set one of ``n`` windows apart, 0 up to one window."""
    n = size.clamp(min=2)
    harmonic = torch.digamma(n) + EULER  # 1 + 1/2 + ... + 1 / (n - 1)
    return torch.where(size <= 1, 0.0, 2 * harmonic - 2 * (n - 1) / n)


def _grow(x: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Grow ``G`` trees on samples ``[G, n, D]``, all nodes of a level at once.

    Returns
    -------
    tuple
        Of each inner node, level by level, its column ``[G, 2^depth - 1]`` and threshold, and of
        its two ways the gains ``[G, 2 * (2^depth - 1)]``; of each place at the bottom the path
        length ``[G, 2^depth]``. A leaf above the bottom sends everything to the left.
    """
    trees, size, _ = x.shape
    place = torch.zeros(trees, size, dtype=torch.int64, device=x.device)
    counts = torch.full((trees, 1), float(size), device=x.device)
    length = torch.zeros_like(counts)
    tables = []
    for level in range(depth):
        column, threshold, split = _cut(x, place, counts)
        values = x.gather(2, column.gather(1, place).unsqueeze(2)).squeeze(2)
        place = place * 2 + (values > threshold.gather(1, place))
        below = torch.zeros(trees, 2 ** (level + 1), device=x.device)
        below.scatter_add_(1, place, torch.ones_like(values))
        gain = (_cuts(counts) - 1).repeat_interleave(2, dim=1) - _cuts(below)
        both = split.repeat_interleave(2, dim=1)
        length = length.repeat_interleave(2, dim=1) + both
        tables.append((column, threshold, torch.where(both, gain, 0.0)))
        counts = below
    column, threshold, gain = (torch.cat(parts, dim=1) for parts in zip(*tables, strict=True))
    return column, threshold, gain, length + _cuts(counts)


def _cut(x: Tensor, place: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw column and threshold of the ``[G, N]`` nodes of one level; last, which can be cut."""
    shape = (*counts.shape, x.shape[2])
    index = place.unsqueeze(2).expand_as(x)
    low = x.new_full(shape, torch.inf).scatter_reduce_(1, index, x, "amin")
    high = x.new_full(shape, -torch.inf).scatter_reduce_(1, index, x, "amax")
    chance = beside(torch.rand(shape), x).masked_fill_(~(high > low), -1.0)
    best = chance.max(dim=2, keepdim=True)
    column, split = best.indices.squeeze(2), best.values.squeeze(2) >= 0
    low, high = (edge.gather(2, best.indices).squeeze(2) for edge in (low, high))
    threshold = low + beside(torch.rand(counts.shape), x) * (high - low)
    return column, threshold.masked_fill_(~split, torch.inf), split
