"""Half-space trees: cuts that ignore the data, and the mass that recent windows leave in them."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.device import beside
from detectors.inputs import RecordInput
from detectors.loops.trees import Cuts, levels, masses
from detectors.scores import Explain, Scores

LEAST_MASS = 0.5
"""Stands for an empty node in an explanation, where logarithms of masses are taken."""


class HalfSpaceTrees(Detector):
    """Mass of the regions that a window falls into, in trees that halve a random work space.

    A tree draws its work space around the range of the data, for each column ``s +- 2 max(s,
    1 - s)`` with ``s`` uniform on a range scaled to ``[0, 1]``, and halves it ``depth`` times
    along random columns. What is learned are masses alone: how many windows of the *reference*
    block lie in each node. A window is led down to the first node with at most ``size_limit`` of
    the block, of mass ``r`` at depth ``k``; with the mean ``m`` of ``r 2^k / window`` over the
    trees, a density relative to a uniform one, the score is ``depth - log2(1 + m)``.

    ``partial_fit`` counts windows into the *latest* block, and each ``window`` of them become
    the new reference, so that the forest follows the stream at a constant cost.

    A cut is credited with ``log2(r / (2 r'))`` where it leaves ``r'`` of ``r`` windows: the
    credits of a path add up to the negative log of its relative density.

    Settings
    --------
    trees, depth
        Number of trees, and halvings in each.
    window
        Windows of a block.
    size_limit
        Share of a block below which a node is not followed further.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D = T * E``; state
    ``trees * 2^depth``, whatever ``D``; ``trees * depth`` comparisons a window.

    Notes
    -----
    A forest knows its last block only: contamination matters as far as it fills nodes. Trees
    of fixed depth see few of many columns, so that wide series windows need more trees.

    References
    ----------
    Tan, Ting and Liu 2011, *Fast anomaly detection for streaming data* (algorithms 1 to 3; depth
    15 there). No detector of the survey (Pang et al. 2020); it belongs beside isolation in
    section 5.2.2. Adaptations: the ranges come from the fit instead of being known; a logarithm
    that turns the score around and keeps its order; attribution; entries under padding are read
    as medians; the first block may be smaller.
    """

    caps = Capabilities(
        name="hst",
        section="baseline: Tan et al. 2011",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="statistics",
        sources=("ONESIDED", "CLUSTERS"),
    )

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Settings; see the class."""

        trees: Annotated[int, msgspec.Meta(ge=1)] = 50
        depth: Annotated[int, msgspec.Meta(ge=1, le=16)] = 10
        window: Annotated[int, msgspec.Meta(ge=1)] = 250
        size_limit: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1

    chunk = 1024

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        x = self._input.flatten(data)
        self._cuts = _halve(x.amin(dim=0), x.amax(dim=0), self.config.trees, self.config.depth)
        self._reference = x.new_zeros(self.config.trees, 2**self.config.depth)
        self._latest, self._waiting = self._reference.clone(), 0
        self._take(x)
        if len(data) < self.config.window:  # no full block yet: better a small one than none
            self._reference = self._latest.clone()
        self._derive()

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._take(self._input.flatten(data))
        self._derive()

    def _take(self, x: Tensor) -> None:
        """Count windows ``[N, D]`` into blocks; only those of the last two can still matter."""
        size = self.config.window
        total = self._waiting + len(x)
        full = total // size
        if full:
            end = full * size - self._waiting
            start = max(0, end - size)
            self._reference = self._count(x[start:end])
            if full == 1:
                self._reference = self._reference + self._latest
            self._latest = torch.zeros_like(self._latest)
            x = x[end:]
        self._latest = self._latest + self._count(x)
        self._waiting = total - full * size

    def _count(self, x: Tensor) -> Tensor:
        counts = torch.zeros_like(self._latest)
        for start in range(0, len(x), self.chunk):
            place = self._cuts.leaves(x[start : start + self.chunk])
            counts += masses(place, counts.shape[1])
        return counts

    def _derive(self) -> None:
        """Make a table of what each place at the bottom is worth, and each way to it earns."""
        found = levels(self._reference)
        block = found[0].clamp(min=1)
        worth, alive = found[0] * 0, found[0] > -1
        gains = []
        for level, mass in enumerate(found):
            if level:
                parent = found[level - 1].repeat_interleave(2, dim=1)
                bits = torch.log2(parent.clamp(min=LEAST_MASS) / mass.clamp(min=LEAST_MASS)) - 1
                alive = alive.repeat_interleave(2, dim=1)
                gains.append(torch.where(alive, bits, 0.0))
                worth = worth.repeat_interleave(2, dim=1)
            ends = alive & (mass <= self.config.size_limit * block)
            if level == len(found) - 1:
                ends = alive
            worth = torch.where(ends, mass * 2**level / block, worth)
            alive = alive & ~ends
        self._worth, self._gains = worth, gains

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        x = self._input.flatten(data)
        density = self._worth.gather(1, self._cuts.leaves(x)).mean(dim=0)
        score = self.config.depth - torch.log2(1 + density)
        if explain == "none":
            return Scores(score)
        return self._input.explained(data, score, self._cuts.credit(x, self._gains))

    def _state(self) -> dict[str, Tensor]:
        return {
            "column": self._cuts.column,
            "threshold": self._cuts.threshold,
            "reference": self._reference,
            "latest": self._latest,
            "waiting": torch.tensor(self._waiting),
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._cuts = Cuts(state["column"], state["threshold"])
        self._reference, self._latest = state["reference"], state["latest"]
        self._waiting = int(state["waiting"])
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._derive()


def _halve(low: Tensor, high: Tensor, trees: int, depth: int) -> Cuts:
    """Draw work spaces around the range ``[D]`` of the data and halve them at random."""
    start = beside(torch.rand(trees, len(low)), low)
    reach = 2 * torch.maximum(start, 1 - start)
    span = torch.where(high > low, high - low, 1.0)
    floor, ceiling = low + (start - reach) * span, low + (start + reach) * span
    columns = [beside(torch.randint(len(low), (trees, 2**level)), low) for level in range(depth)]
    thresholds = []
    for level, column in enumerate(columns):
        # the part of the drawn column that is left at a node follows from the cuts above it
        bottom, top = floor.gather(1, column), ceiling.gather(1, column)
        place = torch.arange(2**level, device=low.device)
        for above in range(level):
            ancestor = place >> (level - above)
            same = columns[above][:, ancestor] == column
            right = ((place >> (level - above - 1)) & 1).bool()
            middle = (bottom + top) / 2
            bottom = torch.where(same & right, middle, bottom)
            top = torch.where(same & ~right, middle, top)
        thresholds.append((bottom + top) / 2)
    return Cuts(torch.cat(columns, dim=1), torch.cat(thresholds, dim=1))
