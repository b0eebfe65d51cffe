"""Nearest neighbours in a bounded memory of normal windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.device import beside
from detectors.inputs import RecordInput
from detectors.loops.reservoir import absorb, slots_of_sample
from detectors.scores import Explain, Scores

GROUP = 64
"""Columns of the distance matrix that are searched together, see :func:`_smallest`."""


ROUNDING = 1e-5
"""Relative slack within which two squared distances count as equal."""


class NearestNeighbours(Detector):
    """Mean distance to the ``k`` nearest of up to ``memory`` remembered windows.

    A distance is the root mean square difference over the real entries of the window, so that
    windows of all lengths are comparable. A shorter window is compared with the beginnings of
    the remembered ones that are at least as long (with all of them where there are fewer than
    ``k``; what they lack then counts as the median).

    Settings
    --------
    neighbours
        ``k``.
    memory
        Windows remembered; a uniform sample of those of the fit.
    trim
        Share of the remembered windows to forget again after ``fit``, the ones farthest from
        the others: for training data that holds anomalies.
    replace
        What ``partial_fit`` overwrites once the memory is full: ``reservoir`` keeps a uniform
        sample of everything ever seen, ``oldest`` follows the stream and forgets.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D = T * E``; state
    ``memory * D``; ``memory * D`` multiply-adds a window.

    References
    ----------
    Angiulli and Pizzuti 2002, *Fast outlier detection in high dimensional spaces* (the mean over
    ``k`` neighbours); Vitter 1985, *Random sampling with a reservoir* (algorithm R). Survey:
    Pang et al. 2020, section 5.2.1, distance-based measures. The memory of bounded size follows
    Bhatia et al. 2022, *MemStream*, without its autoencoder. Adaptations: distances over real
    entries, trimming.
    """

    caps = Capabilities(
        name="knn",
        section="baseline: Angiulli and Pizzuti 2002",
        supervision="semi-supervised",
        kinds=("record", "series", "catrec"),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="statistics",
        sources=("CLUSTERS", "SUBSPACE", "WAVES", "PATHS"),
    )

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Settings; see the class."""

        neighbours: Annotated[int, msgspec.Meta(ge=1)] = 5
        memory: Annotated[int, msgspec.Meta(ge=1)] = 4096
        trim: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
        replace: Literal["reservoir", "oldest"] = "reservoir"

    chunk = 1024  # the distance matrix of a chunk stays near 16 MB

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._seen = len(data)
        self._oldest = 0
        chosen = torch.randperm(len(data))[: self.config.memory].sort().values
        sample = data[beside(chosen, data.mask)]
        self._memory = self._input.flatten(sample)
        self._lengths = sample.lengths
        self._derive()
        if self.config.trim > 0:
            self._trim()

    def _trim(self) -> None:
        """Forget the windows farthest from the rest of the memory."""
        k = min(self.config.neighbours + 1, len(self._memory))
        parts = []
        for start in range(0, len(self._memory), self.chunk):
            part = slice(start, start + self.chunk)
            _, squares = self._nearest(self._memory[part], self._lengths[part], k)
            # the window itself is the nearest: it is left out
            distances = squares.sum(dim=2).sqrt().sort(dim=1).values
            parts.append(distances[:, 1:].mean(dim=1))
        kept = max(1, round(len(self._memory) * (1 - self.config.trim)))
        rows = torch.cat(parts).nan_to_num(0.0).argsort(stable=True)[:kept].sort().values
        self.report.trimmed = len(self._memory) - kept
        self._memory, self._lengths = self._memory[rows], self._lengths[rows]
        self._derive()

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._memory, self._lengths = absorb(
            (self._memory, self._lengths),
            (self._input.flatten(data), data.lengths),
            self.config.memory,
            self._slots,
        )
        self._seen += len(data)
        self._derive()

    def _slots(self, count: int, free: int) -> Tensor:
        """``[count]``: the slot that each new window takes after the first ``free`` found room."""
        size = self.config.memory
        if self.config.replace == "reservoir":
            return slots_of_sample((count,), self._seen + free, self.seed)
        slots: Tensor = (self._oldest + torch.arange(count)) % size
        self._oldest = (self._oldest + count) % size
        return slots

    def _derive(self) -> None:
        """Lay the memory out for the search: columns, and squared norms of all beginnings.

        Columns ``[D, M]`` and norms ``[T + 1, M]``, with ``M`` rounded up to whole groups; an
        infinite norm takes a remembered window out of the search.
        """
        size = len(self._memory)
        squares = self._memory.view(size, self._input.steps, -1).square().sum(dim=2).cumsum(dim=1)
        norms = torch.nn.functional.pad(squares, (1, 0)).T
        length = torch.arange(self._input.steps + 1, device=norms.device).unsqueeze(1)
        shorter = self._lengths < length
        enough = (~shorter).sum(dim=1, keepdim=True) > min(self.config.neighbours, size - 1)
        norms = norms.masked_fill(shorter & enough, torch.inf)
        spare = -size % GROUP
        self._norms = torch.nn.functional.pad(norms, (0, spare), value=torch.inf)
        self._columns = torch.nn.functional.pad(self._memory.T, (0, spare)).contiguous()

    def _nearest(self, x: Tensor, lengths: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return indices ``[B, k]`` of the nearest remembered windows and squared differences.

        The matrix product only finds them; differences ``[B, k, D]``, divided by the number of
        real entries, are then taken directly, because ``|x|^2 - 2 x m + |m|^2`` cancels.
        """
        full = bool((lengths == self._input.steps).all())
        norms = self._norms[-1] if full else self._norms[lengths]
        found = _smallest(torch.addmm(norms, x, self._columns, alpha=-2), k)
        difference = x.unsqueeze(1) - self._memory[found]
        entries = (lengths * (x.shape[1] // self._input.steps)).unsqueeze(1)
        if not full:
            padding = torch.arange(x.shape[1], device=x.device) >= entries
            difference.masked_fill_(padding.unsqueeze(1), 0.0)
        return found, difference.square_().div_(entries.clamp(min=1).unsqueeze(2))

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        x = self._input.flatten(data)
        k = min(self.config.neighbours, len(self._memory))
        _, squares = self._nearest(x, data.lengths, k)
        squares = squares.sum(dim=2)
        score = squares.sqrt().mean(dim=1)
        if explain == "none":
            return Scores(score)
        expected = self._neighbourhood(x, data.lengths, squares.amax(dim=1))
        found = self._input.explained(data, score, (x - expected).square())
        steps = self._input.unflatten(expected, data)[:, :, : data.features]
        return replace(found, expected=steps.masked_fill(~data.mask.unsqueeze(-1), 0.0))

    def _neighbourhood(self, x: Tensor, lengths: Tensor, farthest: Tensor) -> Tensor:
        """Mean of the remembered windows that are no farther than the ``k``-th nearest, ``[B, D]``.

        All that are equally far belong to it, so that the explanation does not hang on which of
        many equal neighbours the search happened to meet first.
        """
        size = x.square().sum(dim=1, keepdim=True)
        distances = torch.addmm(self._norms[lengths], x, self._columns, alpha=-2) + size
        entries = lengths * (x.shape[1] // self._input.steps)
        limit = (farthest * entries).unsqueeze(1) + ROUNDING * (1 + size)
        near = (distances <= limit).float()
        return torch.mm(near, self._columns.T) / near.sum(dim=1, keepdim=True).clamp(min=1)

    def _state(self) -> dict[str, Tensor]:
        return {
            "memory": self._memory,
            "lengths": self._lengths,
            "position": torch.tensor([self._seen, self._oldest]),
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._memory, self._lengths = state["memory"], state["lengths"]
        self._seen, self._oldest = (int(value) for value in state["position"])
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._derive()


def _smallest(distances: Tensor, k: int) -> Tensor:
    """Return indices ``[B, k]`` of the ``k`` smallest of each row, in no particular order.

    The ``k`` smallest entries lie in the ``k`` groups of columns with the smallest minima, and
    minima of many short groups are several times faster than a selection over the whole row.
    """
    rows, columns = distances.shape
    groups = columns // GROUP
    if groups <= k:
        return distances.topk(k, dim=1, largest=False, sorted=False).indices
    grouped = distances.view(rows, GROUP, groups)
    best = grouped.amin(dim=1).topk(k, dim=1, largest=False, sorted=False).indices
    candidates = grouped.gather(2, best.unsqueeze(1).expand(-1, GROUP, -1)).flatten(1)
    chosen = candidates.topk(k, dim=1, largest=False, sorted=False).indices
    return chosen // k * groups + best.gather(1, chosen % k)
