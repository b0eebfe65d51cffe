"""Robust random cut forest: how much a window would displace the windows of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.device import beside
from detectors.inputs import RecordInput
from detectors.loops.reservoir import last_taken, slots_of_sample
from detectors.loops.trees import pick
from detectors.scores import Explain, Scores

DEEPEST = 64
"""Levels at which a tree ends at the latest; windows that differ are long apart by then."""

TINY = torch.finfo(torch.float32).tiny


class RandomCutForest(Detector):
    """Collusive displacement by a window, expected over its random insertion into each tree.

    Each tree is grown on its own uniform sample of all windows seen: a node cuts a column with a
    probability in proportion to the range of its windows, at a uniform place. A window that is
    inserted leaves the tree at a node with the probability that a cut of the enlarged box falls
    between the window and the box; it then has the ``n`` windows of that node as its sibling.
    Its displacement is the largest ratio, over the subtrees that hold it, of the size of the
    sibling to that of the subtree. The score is the mean over the trees of the expected
    displacement: small where a window goes with the others, up to ``sample`` for one far out.

    Where a window leaves a tree, the columns share the blame by how far it lies outside the box.

    Settings
    --------
    trees, sample
        Number of trees, and windows that each is grown on.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D = T * E``; state
    ``trees * sample * D``; about ``2 trees * log2 sample * D`` operations a window.

    Notes
    -----
    Samples are uniform over everything seen: what becomes usual is learned in proportion to its
    share in the stream, and contamination stays in proportion to its own.

    References
    ----------
    Guha et al. 2016, *Robust random cut forest based anomaly detection on streams* (definition 1
    for the trees, algorithm 2 for the insertion; collusive displacement). No detector of the
    survey (Pang et al. 2020); it belongs beside isolation in section 5.2.2. Adaptations:
    scored windows are not inserted; the expectation over the insertion is taken in closed form,
    given the trees, so that a score is not random. An update draws which windows each sample
    exchanges (Vitter 1985) and grows the trees anew, which has the same distribution as the
    insertions and deletions of the paper. Trees end at 64 levels; entries under padding are read
    as medians.
    """

    caps = Capabilities(
        name="rcf",
        section="baseline: Guha et al. 2016",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="small",
        loop="statistics",
        sources=("CLUSTERS", "ONESIDED", "SUBSPACE"),
    )

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Settings; see the class."""

        trees: Annotated[int, msgspec.Meta(ge=1)] = 40
        sample: Annotated[int, msgspec.Meta(ge=1)] = 256

    chunk = 128  # windows are compared with the boxes of all trees at once

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._seen = len(data)
        size = min(self.config.sample, len(data))
        drawn = [torch.randperm(len(data))[:size] for _ in range(self.config.trees)]
        rows = self._input.flatten(data)
        self._samples = rows[torch.stack(drawn).to(rows.device)]
        self._derive()

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        rows = self._input.flatten(data)
        trees, size, _ = self._samples.shape
        free = self.config.sample - size
        more = rows[:free].expand(trees, -1, -1)
        self._samples = torch.cat([self._samples, more], dim=1)
        rows = rows[free:]
        slots = slots_of_sample((trees, len(rows)), self._seen + free, self.seed)
        last = last_taken(slots, self._samples.shape[1]).to(rows.device)
        hit = last >= 0
        self._samples[hit] = rows[last[hit]]
        self._seen += len(data)
        self._derive()

    def _derive(self) -> None:
        generator = torch.Generator().manual_seed(self.seed + self._seen)
        self._forest = _grow(self._samples, generator)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        x = self._input.flatten(data)
        score, blame = self._forest.displacement(x, blamed=explain == "full")
        if explain == "none":
            return Scores(score)
        return self._input.explained(data, score, blame)

    def _state(self) -> dict[str, Tensor]:
        return {
            "samples": self._samples,
            "seen": torch.tensor(self._seen),
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._samples, self._seen = state["samples"], int(state["seen"])
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._derive()


@dataclass(frozen=True)
class _Forest:
    """Nodes of all trees in one list: first the roots, then each level, siblings side by side.

    Attributes
    ----------
    trees, depth
        Number of roots, and of levels.
    box, span
        ``[N, 2 D]``: least and largest values of the windows in each node; ``[N]``: the sum of
        their differences.
    size
        ``[N]``: how many windows those are.
    gain
        ``[N]``: displacement by a window that leaves the tree at the node: the size of the node,
        or if that is larger the largest ratio on the way of a sibling to the subtree beside it.
    kept
        ``[N]``: displacement by a window that stays at a leaf; 0 at other nodes.
    column, threshold, left
        ``[N]``: the cut, and the child of windows up to the threshold; the other one follows it.
        A leaf is its own child.
    """

    trees: int
    depth: int
    box: Tensor
    span: Tensor
    size: Tensor
    gain: Tensor
    kept: Tensor
    column: Tensor
    threshold: Tensor
    left: Tensor

    def displacement(self, x: Tensor, *, blamed: bool) -> tuple[Tensor, Tensor]:
        """Mean expected displacement ``[B]`` by windows ``[B, D]``, and what each column adds."""
        windows = len(x)
        # every window in every tree is a pair
        pair = torch.arange(self.trees * windows, device=x.device)
        node, stays = pair // windows, torch.ones(len(pair), device=x.device)
        expected, blame = torch.zeros_like(stays), torch.zeros_like(x)
        for _ in range(self.depth):
            row = pair % windows
            shown = x.index_select(0, row)
            low, high = self.box.index_select(0, node).chunk(2, dim=1)
            outside = torch.clamp(shown, low, high).sub_(shown).abs_()
            reach = outside.sum(dim=1)
            leaves = stays * reach / (reach + pick(self.span, node)).clamp_(min=TINY)
            added = leaves * pick(self.gain, node)
            if blamed:
                blame.index_add_(0, row, outside * (added / reach.clamp(min=TINY)).unsqueeze(1))
            stays = stays - leaves
            # an equal of the windows of a leaf stays with them
            expected.index_add_(0, pair, added + stays * pick(self.kept, node))
            value = shown.gather(1, pick(self.column, node).unsqueeze(1)).squeeze(1)
            child = pick(self.left, node) + (value > pick(self.threshold, node))
            goes_on = child != node
            if x.device.type == "cpu":  # elsewhere, to wait for what is left would cost more
                left = goes_on.nonzero().squeeze(1)
                pair, node, stays = (pick(part, left) for part in (pair, child, stays))
            else:
                node, stays = child, stays * goes_on
        return expected.view(self.trees, windows).mean(dim=0), blame / self.trees


def _grow(samples: Tensor, generator: torch.Generator) -> _Forest:
    """Grow a tree on each of ``[G, n, D]`` samples, one level of all trees at a time."""
    trees, n, width = samples.shape
    rows = samples.reshape(-1, width)
    slot = torch.arange(trees, device=rows.device).repeat_interleave(n)
    nodes, made, depth = trees, trees, 0
    largest = rows.new_zeros(trees)
    tables: list[tuple[Tensor, ...]] = []
    while nodes:
        index = slot.unsqueeze(1).expand_as(rows)
        low = rows.new_full((nodes, width), torch.inf).scatter_reduce_(0, index, rows, "amin")
        high = rows.new_full((nodes, width), -torch.inf).scatter_reduce_(0, index, rows, "amax")
        column, threshold = _cut(low, high, generator)
        split = (high > low).any(dim=1) & (depth < DEEPEST)
        rank = split.cumsum(dim=0) - 1
        own = torch.arange(made - nodes, made, device=rows.device)
        left = torch.where(split, made + 2 * rank, own)
        threshold = threshold.masked_fill(~split, torch.inf)
        size = torch.bincount(slot, minlength=nodes).float()
        if depth:
            sibling = size.view(-1, 2).flip(1).flatten()
            largest = torch.maximum(largest, sibling / (size + 1))
        span, box = (high - low).sum(dim=1), torch.cat([low, high], dim=1)
        gain, kept = torch.maximum(largest, size), largest.masked_fill(split, 0.0)
        tables.append((box, span, size, gain, kept, column, threshold, left))
        largest = largest[split].repeat_interleave(2)
        goes_on = split[slot]
        rows, slot = rows[goes_on], slot[goes_on]
        right = rows.gather(1, column[slot].unsqueeze(1)).squeeze(1) > threshold[slot]
        slot = 2 * rank[slot] + right
        nodes = 2 * int(split.sum())
        made, depth = made + nodes, depth + 1
    return _Forest(trees, depth, *(torch.cat(parts) for parts in zip(*tables, strict=True)))


def _cut(low: Tensor, high: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw columns ``[A]`` of boxes ``[A, D]`` in proportion to their ranges, and places."""
    chance = beside(torch.rand((2, len(low)), generator=generator), low)
    extent = high - low
    upto = extent.cumsum(dim=1)
    draw = (chance[0] * upto[:, -1]).unsqueeze(1)
    column = torch.searchsorted(upto, draw, right=True).clamp(max=extent.shape[1] - 1)
    # rounding may lead past the last column with a range
    empty = extent.gather(1, column) == 0
    column = torch.where(empty, extent.argmax(dim=1, keepdim=True), column)
    bottom, reach, top = (part.gather(1, column).squeeze(1) for part in (low, extent, high))
    place = bottom + chance[1] * reach
    return column.squeeze(1), torch.where(place >= top, bottom, place)
