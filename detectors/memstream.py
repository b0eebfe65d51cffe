"""MemStream: distance to remembered codes; the memory follows the stream, unless it is odd."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.denoise_ae import corrupted
from detectors.dense import squared_error
from detectors.detector import Budget
from detectors.loops.batches import evaluate
from detectors.loops.stage import Count, Positive, Share, Training
from detectors.nets.autoencoder import TiedAutoencoder
from detectors.network import NetworkDetector
from detectors.scores import Explain, Scores


class MemStream(NetworkDetector):
    """Discounted distance of a window's code to the nearest of up to ``memory`` remembered ones.

    A denoising autoencoder with one layer of ``tanh`` units, twice as many as there are columns, is
    trained once. The codes of the latest normal windows form the memory. With ``d_1 <= d_2 <= ..``
    the absolute distances ``||z - m||_1`` of a code to the ``K`` nearest of them, a window scores
    ``sum_i g^(i-1) d_i / sum_i g^(i-1)`` for the discount ``g``. An update takes the windows that
    score below ``beta`` into the memory, first in first out, and leaves out all others.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``2 D² + 2 D memory`` operations a window.

    Notes
    -----
    The memory adapts to drift at once, where a network would have to be trained again; codes stay
    what they were. Anomalies stay out as long as they score above ``beta``, and so does a sudden
    change to a new normal, which needs a fit. The few that get in bring in others like them.

    From the paper: network, memory, score, update rule. Adaptations: weights are tied; ``beta`` is
    a quantile of the scores of windows that the memory does not hold yet, instead of a number to be
    guessed, and stays; an update judges all its windows by the memory before it; numbers are scaled
    by the fit alone; the memory keeps windows, whose codes follow, and explains a score by what
    differs from the nearest of them; categories become columns.

    References
    ----------
    Bhatia et al. 2022, *MemStream: memory-based streaming anomaly detection*. Survey: Pang et al.
    2020, sections 5.1.1 (autoencoders) and 5.2.1 (distances); the method came after it.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        code
            Units of the code; twice the columns if left out.
        memory
            Windows remembered.
        neighbours, discount
            ``K`` and ``g``; a discount of 0 counts the nearest alone.
        admit
            Share of normal windows below ``beta``.
        noise, blanked
            Standard deviation of the noise that training adds, and share of the entries that it
            sets to 0.
        """

        code: Count | None = None
        memory: Count = 2048
        neighbours: Count = 3
        discount: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.5
        admit: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.95
        noise: Annotated[float, msgspec.Meta(ge=0.0)] = 0.1
        blanked: Share = 0.0
        learning_rate: Positive = 3e-3
        epochs: Count = 50
        trim: Share = 0.01

    caps = Capabilities(
        name="memstream",
        section="Bhatia et al. 2022",
        supervision="semi-supervised",
        kinds=("record", "series"),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="reconstruction",
        sources=("SUBSPACE", "CLUSTERS", "WAVES"),
    )
    chunk = 512
    _net: TiedAutoencoder

    def _network(self) -> nn.Module:
        columns = self._input.width
        return TiedAutoencoder(columns, self.config.code or 2 * columns, torch.tanh)

    # -- learning ---------------------------------------------------------------------------

    def _loss(self, data: WindowBatch) -> Tensor:
        config, rows, real = self.config, self._rows(data), self._real(data)
        shown = corrupted(rows, config.noise, config.blanked, self._chance) * real
        return squared_error(self._net(shown), rows, real)

    def _held_out_loss(self, data: WindowBatch) -> Tensor:
        rows = self._rows(data)
        return squared_error(self._net(rows), rows, self._real(data))

    def _learn_usual(self, early: WindowBatch, late: WindowBatch) -> None:
        # what the memory holds already is at no distance from it, and would set beta too low
        self._remember(self._rows(early[-self.config.memory :]))
        distances = evaluate(self._distances, late, self.config.batch)
        at = min(len(distances) - 1, int(self.config.admit * len(distances)))
        self._beta = distances.sort().values[at]
        self._remember(torch.cat([self._memory, self._rows(late)]))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        batch = self.config.batch
        usual = evaluate(self._distances, data, batch) <= self._beta
        self._remember(torch.cat([self._memory, self._rows(data)[usual]]))
        self.report.losses = [float(evaluate(self._held_out_loss, data, batch).mean())]
        self.report.stopped, self.report.trimmed = "epochs", int((~usual).sum())

    def _remember(self, rows: Tensor) -> None:
        """Keep the latest of rows ``[N, D]``, oldest first, and their codes."""
        self._memory = rows[-self.config.memory :].clone()
        with torch.no_grad():
            self._codes = self._net.encode(self._memory)

    # -- scoring ----------------------------------------------------------------------------

    def _nearest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Discounted distances ``[B]``, and which windows ``[B, K]`` are the nearest."""
        gaps = torch.cdist(self._net.encode(rows), self._codes, p=1.0)
        nearest = gaps.topk(min(self.config.neighbours, len(self._codes)), largest=False)
        rank = torch.arange(nearest.values.shape[1], device=rows.device)
        weight = self.config.discount**rank
        return nearest.values @ weight / weight.sum(), nearest.indices

    def _distances(self, data: WindowBatch) -> Tensor:
        return self._nearest(self._rows(data))[0]

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        rows = self._rows(data)
        score, nearest = self._nearest(rows)
        if explain == "none":
            return Scores(score)
        expected = self._memory[nearest].mean(dim=1)
        found = self._input.explained(data, score, (rows - expected).square())
        steps = expected.view(len(data), -1, self._input.columns)[:, : data.steps]
        numbers = steps[:, :, : data.features].masked_fill(~data.mask.unsqueeze(-1), 0.0)
        return replace(found, expected=numbers)

    # -- files ------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "memory": self._memory, "beta": self._beta}

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self._beta = state["beta"]
        self._remember(state["memory"])
