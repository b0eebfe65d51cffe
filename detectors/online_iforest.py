"""Online isolation forest: trees that grow where recent windows gather and shrink where not."""

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
from detectors.loops.trees import Cuts, levels, masses, pick
from detectors.scores import Explain, Scores


class OnlineIsolationForest(Detector):
    """Isolation depth in trees that follow a sliding window over the stream.

    The last ``window`` windows are kept. A node at depth ``k`` is cut once it holds ``leaf 2^k``
    of them, along a random column at a random place in their range; when it holds fewer, its cut
    is undone with all below. Cuts that stay justified stay. With the mean over the trees of
    ``h(x) = k + log2(n / leaf)`` for a leaf of ``n`` at depth ``k``, the score is
    ``2^(-h(x) / log2(window / leaf))``, until the window is full with what is kept in its place:
    somewhat below 0.5 where windows lie densely, rising towards 1 where they are few. Cuts lie
    inside the range of the windows, so that beyond it the score no longer grows.

    A cut earns what it shortens the depth by when it leaves ``n'`` of ``n`` windows; summed per
    column, these gains attribute the score, and only positive sums are reported.

    Settings
    --------
    trees
        Number of trees; the original has 32.
    window
        Windows that are kept; older ones are forgotten.
    leaf
        Windows that the root needs to be cut; twice as many on each level below.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D = T * E``; state
    ``window * D + trees * window / leaf``; ``trees * log2(window / leaf)`` comparisons a window.

    Notes
    -----
    A fit looks at no more than the last ``window`` windows. Below ``leaf`` of them there is no
    cut, and all scores are equal.

    References
    ----------
    Leveni et al. 2024, *Online isolation forest* (adaptive growth). No detector of the survey
    (Pang et al. 2020); it belongs beside isolation in section 5.2.2. Adaptations: windows are
    learned and forgotten a batch at a time; a new node's windows are counted in what is kept,
    where the original draws made-up ones from its range; attribution by gains; entries under
    padding are read as medians.
    """

    caps = Capabilities(
        name="online_iforest",
        section="baseline: Leveni et al. 2024",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="statistics-only",
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
        window: Annotated[int, msgspec.Meta(ge=1)] = 2048
        leaf: Annotated[int, msgspec.Meta(ge=1)] = 32

    chunk = 1024

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._seen = 0
        depth = (self.config.window // self.config.leaf).bit_length() or 1
        shape = (self.config.trees, 2**depth - 1)
        self._cuts = Cuts(
            torch.zeros(shape, dtype=torch.int64, device=data.num.device),
            torch.full(shape, torch.inf, device=data.num.device),
        )
        self._rows = data.num.new_zeros(0, self._input.width)
        self._learn(data)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._learn(data)

    def _learn(self, data: WindowBatch) -> None:
        size = self.config.window
        recent = self._input.flatten(data[-size:])
        self._rows = torch.cat([self._rows, recent])[-size:]
        self._seen += len(data)
        self._adapt()
        self._derive()

    def _adapt(self) -> None:
        """Undo cuts that are no longer justified and make those that have become so."""
        # the number of windows seen makes the draws of consecutive updates differ
        generator = torch.Generator().manual_seed(self.seed + self._seen)
        x, (trees, _) = self._rows, self._cuts.column.shape
        place = torch.zeros(trees, len(x), dtype=torch.int64, device=x.device)
        rows = torch.arange(len(x), device=x.device) * x.shape[1]
        reached = torch.ones(trees, 1, dtype=torch.bool, device=x.device)
        for level in range(self._cuts.depth):
            nodes = slice(2**level - 1, 2 ** (level + 1) - 1)
            column, threshold = self._cuts.column[:, nodes], self._cuts.threshold[:, nodes]
            count = masses(place, 2**level)
            cut = reached & (count >= self.config.leaf * 2**level)
            drawn = beside(torch.randint(x.shape[1], column.shape, generator=generator), x)
            chance = beside(torch.rand(column.shape, generator=generator), x)
            column = torch.where(threshold.isfinite(), column, drawn)
            values = pick(x, column.gather(1, place) + rows)
            low = values.new_full(column.shape, torch.inf).scatter_reduce(1, place, values, "amin")
            high = values.new_full(column.shape, -torch.inf)
            high = high.scatter_reduce(1, place, values, "amax")
            fresh = low + chance * (high - low)
            threshold = torch.where(threshold.isfinite(), threshold, fresh)
            threshold = threshold.masked_fill(~cut, torch.inf)
            self._cuts.column[:, nodes] = column.masked_fill(~cut, 0)
            self._cuts.threshold[:, nodes] = threshold
            place = place * 2 + (values > threshold.gather(1, place))
            reached = cut.repeat_interleave(2, dim=1)
        self._bottom = masses(place, 2**self._cuts.depth)

    def _derive(self) -> None:
        """Make a table of the depth that each place at the bottom stands for, and of gains."""
        found = levels(self._bottom)
        rest = [torch.log2((count / self.config.leaf).clamp(min=1)) for count in found]
        length, gains = torch.zeros_like(found[0]), []
        for level in range(self._cuts.depth):
            threshold = self._cuts.threshold[:, 2**level - 1 : 2 ** (level + 1) - 1]
            cut = threshold.isfinite().repeat_interleave(2, dim=1)
            gain = rest[level].repeat_interleave(2, dim=1) - 1 - rest[level + 1]
            gains.append(torch.where(cut, gain, 0.0))
            length = length.repeat_interleave(2, dim=1) + cut
        self._length, self._gains = length + rest[-1], gains
        usual = torch.log2(found[0][0, 0] / self.config.leaf)
        self._usual = max(float(usual), 1.0)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        x = self._input.flatten(data)
        length = self._length.gather(1, self._cuts.leaves(x)).mean(dim=0)
        score = torch.exp2(-length / self._usual)
        if explain == "none":
            return Scores(score)
        return self._input.explained(data, score, self._cuts.credit(x, self._gains))

    def _state(self) -> dict[str, Tensor]:
        return {
            "column": self._cuts.column,
            "threshold": self._cuts.threshold,
            "rows": self._rows,
            "bottom": self._bottom,
            "seen": torch.tensor(self._seen),
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._cuts = Cuts(state["column"], state["threshold"])
        self._rows, self._bottom = state["rows"], state["bottom"]
        self._seen = int(state["seen"])
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._derive()
