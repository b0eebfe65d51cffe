"""Robust deep autoencoder: takes out of the training data what no autoencoder should learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.dense import DenseDetector, DenseTraining, squared_error
from detectors.detector import Budget
from detectors.loops.batches import held_out_loss, in_random_order
from detectors.loops.stage import Count, Positive, Share, Stage
from detectors.loops.training import train
from detectors.nets.autoencoder import DenseAutoencoder, code_width

TIE_BREAKER = 1e-3
"""Weight of the plain residual, which tells windows apart whose sparse part is zero."""

Penalty = Literal["cells", "rows"]


class RobustAutoencoder(DenseDetector):
    """Size of the sparse part ``S`` that is left of a window once the copy has been taken out.

    The training data is split into ``X = L + S``. In turns, the network learns for a few epochs to
    copy ``L = X - S``, and ``S`` becomes what its copies leave over, shrunk by a threshold
    ``lambda``: each entry by itself (``cells``), or each window as a whole (``rows``). What is
    anomalous moves into ``S``, and no longer teaches.

    With ``res = x - xhat``, a window scores the mean of ``|S| + 1e-3 |res|`` over its real entries,
    where ``S`` is the shrunk ``res``. Most of ``S`` is zero: it names the entries that do not fit.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``130 D`` multiply-adds a window.

    Notes
    -----
    Fitting holds the flattened training windows and ``S`` in memory; neither is kept.

    From the paper: decomposition, alternation, both penalties, sigmoid units. Adaptations: unless
    given, ``lambda`` is the quantile of the residuals that leaves the share ``flagged`` of ``S``
    non-zero, and follows them from round to round, since a network that has hardly learned leaves
    large ones; windows beyond the training data are scored by shrinking their residual; the
    tie-breaker has the absolute residual; weights are chosen by absolute errors on held-out
    windows, which a few anomalies sway little, and these rather than the change of ``L + S`` end
    the rounds; categories become columns. The report counts as trimmed the training windows of
    which anything is in ``S`` in the end.

    References
    ----------
    Zhou and Paffenroth 2017, *Anomaly detection with robust deep autoencoders*. Survey: Pang et
    al. 2020, section 5.1.1.
    """

    class Config(DenseTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every dense autoencoder.

        Attributes
        ----------
        hidden
            Widths of the encoder's hidden layers; the decoder has them in reverse.
        code
            Width of the code; an eighth of the columns if left out.
        penalty
            ``cells`` for single wrong entries, ``rows`` for windows wrong as a whole.
        flagged
            Share of the entries or windows of the training data in ``S``.
        threshold
            ``lambda`` itself, if set: smaller flags more.
        round_epochs
            Epochs between two updates of ``S``.
        """

        hidden: tuple[Count, ...] = (64,)
        code: Count | None = None
        penalty: Penalty = "cells"
        flagged: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.03
        threshold: Positive | None = None
        round_epochs: Count = 2
        trim: Share = 0.0
        learning_rate: Positive = 3e-3
        whiten: bool = False

    caps = Capabilities(
        name="rda",
        section="5.1.1",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="tiny",
        loop="reconstruction",
        sources=("SUBSPACE", "WAVES", "FEWLABELS"),
    )

    def _network(self, columns: int) -> nn.Module:
        code = self.config.code or code_width(columns)
        return DenseAutoencoder(columns, self.config.hidden, code, activation=nn.Sigmoid)

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._threshold = data.num.new_tensor(self.config.threshold or 0.0)
        self._learns_threshold = self.config.threshold is None
        super()._fit(data, labels, budget)
        self._learns_threshold = False  # an update is too small to set it anew

    def _train(self, stage: Stage, early: WindowBatch, late: WindowBatch) -> None:
        settings = stage.settings
        rows, real = self._rows(early), self._real(early)
        sparse = torch.zeros_like(rows)

        def draw(generator: torch.Generator) -> Iterator[Tensor]:
            return in_random_order(len(rows), settings, generator, rows.device)

        def loss(batch: Tensor) -> Tensor:
            low = rows[batch] - sparse[batch]
            return squared_error(self._net(low), low, real[batch])

        def separate(epoch: int) -> None:
            if epoch % self.config.round_epochs == 0:
                sparse.copy_(self._sparse_part(self._left_over(rows, sparse, real), real))

        absolute = self._over(self._held_out_loss)
        train(
            stage,
            draw,
            loss,
            validate=lambda: held_out_loss(absolute, late, settings),
            after_epoch=separate,
        )
        stage.run.report.trimmed = int(sparse.any(dim=1).sum())
        # scoring shrinks the residual of a window as it came, with nothing taken out before
        self._sparse_part(self._left_over(rows, torch.zeros_like(rows), real), real)

    def _left_over(self, rows: Tensor, sparse: Tensor, real: Tensor) -> Tensor:
        """``[N, D]``: what the copies of ``rows - sparse`` leave of the rows."""
        size = 4 * self.config.batch
        pairs = zip(torch.split(rows, size), torch.split(sparse, size), strict=True)
        with torch.no_grad():
            return torch.cat([row - self._net(row - part) for row, part in pairs]) * real

    def _sparse_part(self, residual: Tensor, real: Tensor) -> Tensor:
        """Shrink training residuals, by a threshold that first follows them if it is learned."""
        if self._learns_threshold:
            rows = self.config.penalty == "rows"
            sizes = torch.linalg.vector_norm(residual, dim=1) if rows else residual[real].abs()
            if len(sizes):
                at = max(1, round((1 - self.config.flagged) * len(sizes)))
                self._threshold = sizes.kthvalue(at).values
        return shrink(residual, self._threshold, self.config.penalty)

    def _held_out_loss(self, rows: Tensor, real: Tensor) -> Tensor:
        copies: Tensor = self._net(rows)
        return ((copies - rows).abs() * real).sum(dim=-1)

    def _entry(self, residual: Tensor) -> Tensor:
        sparse = shrink(residual, self._threshold, self.config.penalty)
        return sparse.abs() + TIE_BREAKER * residual.abs()

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "threshold": self._threshold}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._threshold, self._learns_threshold = state["threshold"], False
        super()._restore(state)


def shrink(residual: Tensor, threshold: Tensor, penalty: Penalty) -> Tensor:
    """Proximal step on ``[N, D]``: what is left of entries or rows beyond the threshold."""
    if penalty == "cells":
        return residual.sign() * (residual.abs() - threshold).clamp(min=0)
    norms = torch.linalg.vector_norm(residual, dim=1, keepdim=True).clamp(
        min=torch.finfo(residual.dtype).tiny
    )
    kept: Tensor = (1 - threshold / norms).clamp(min=0)
    return residual * kept
