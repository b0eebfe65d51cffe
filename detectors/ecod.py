"""Empirical tails: how rare the values of a window are, column by column."""

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
from detectors.loops.reservoir import absorb, slots_of_sample
from detectors.scores import Explain, Scores


class EmpiricalTails(Detector):
    """Negative log probabilities of the tails that the columns of a window fall into.

    With the empirical distribution of each column, ``L_j = -log P(X_j <= x_j)`` and
    ``R_j = -log P(X_j >= x_j)``. Three sums over the columns are formed: of all ``L_j``, of all
    ``R_j``, and of ``L_j`` where column ``j`` is skewed to the left, else ``R_j``. The largest,
    divided by the number of real entries, is the score. Columns are taken as independent; there
    is nothing to tune and nothing random.

    The attribution of an entry is the larger of its ``L_j`` and ``R_j``.

    Settings
    --------
    memory
        Windows that the distributions are made of; a uniform sample of all seen.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D = T * E``; state
    ``memory * D``; ``2 D log2 memory`` comparisons a window.

    Notes
    -----
    A probability is at least ``1 / (n + 1)``: beyond all values of the fit scores no longer
    grow. What is rare only in combination is not seen. A category seen at fit costs its
    surprisal where it is a one-hot, a new one as much as a number beyond all others.

    References
    ----------
    Li et al. 2022, *ECOD: unsupervised outlier detection using empirical cumulative distribution
    functions* (algorithm 1). No detector of the survey (Pang et al. 2020); it belongs beside the
    classical measures of section 5.2. Adaptations: probabilities count the scored window itself,
    as it is not part of the sample; the mean over real entries makes windows of all lengths
    comparable; a sample of bounded size (Vitter 1985) that updates refresh.
    """

    caps = Capabilities(
        name="ecod",
        section="baseline: Li et al. 2022",
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

        memory: Annotated[int, msgspec.Meta(ge=1)] = 4096

    chunk = 2048

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._seen = len(data)
        chosen = torch.randperm(len(data))[: self.config.memory].sort().values
        sample = data[beside(chosen, data.mask)]
        self._memory, self._lengths = self._input.flatten(sample), sample.lengths
        self._derive()

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._memory, self._lengths = absorb(
            (self._memory, self._lengths),
            (self._input.flatten(data), data.lengths),
            self.config.memory,
            lambda count, free: slots_of_sample((count,), self._seen + free, self.seed),
        )
        self._seen += len(data)
        self._derive()

    def _derive(self) -> None:
        """Sort the columns ``[D, M]``, padding last, and find the side of their longer tail."""
        steps = torch.arange(self._input.steps, device=self._lengths.device)
        real = (steps < self._lengths.unsqueeze(1)).repeat_interleave(self._input.columns, dim=1)
        self._sorted = self._memory.masked_fill(~real, torch.inf).T.contiguous().sort(dim=1).values
        self._count = real.sum(dim=0).unsqueeze(1)
        mean = self._memory.sum(dim=0) / self._count.squeeze(1).clamp(min=1)
        third = ((self._memory - mean) ** 3).masked_fill(~real, 0.0).sum(dim=0)
        self._left = third < 0

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        x, real = self._input.rows(data)
        columns = x.T.contiguous()
        upto = torch.searchsorted(self._sorted, columns, right=True)
        below = torch.searchsorted(self._sorted, columns)
        upto, below = (torch.minimum(count, self._count) for count in (upto, below))
        total = torch.log1p(self._count.float())
        left = (total - torch.log1p(upto.float())).T
        right = (total - torch.log1p((self._count - below).float())).T
        left, right = left.masked_fill(~real, 0.0), right.masked_fill(~real, 0.0)
        sums = [side.sum(dim=1) for side in (left, right, torch.where(self._left, left, right))]
        entries = data.lengths.clamp(min=1) * self._input.columns
        score = torch.stack(sums).amax(dim=0) / entries
        if explain == "none":
            return Scores(score)
        return self._input.explained(data, score, torch.maximum(left, right))

    def _state(self) -> dict[str, Tensor]:
        return {
            "memory": self._memory,
            "lengths": self._lengths,
            "seen": torch.tensor(self._seen),
            **self._input.state("input."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._memory, self._lengths = state["memory"], state["lengths"]
        self._seen = int(state["seen"])
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._derive()
