"""Geometric transformations: what was done to a normal window can be told from the result."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.loops.batches import evaluate
from detectors.loops.dirichlet import fit_dirichlet
from detectors.transformed import TransformationClassifier, TransformTraining, surprise

LEAST_LOG = -13.8
"""Logarithm of 1e-6, below which answers are not told apart: Dirichlet distributions of sure
answers have parameters below 1, which would reward ever smaller ones."""


class GeometricTransformations(TransformationClassifier):
    """How unsure a classifier is, or how unusually, of the transformation that a window underwent.

    Each window ``x`` is shown in ``n`` transformed versions ``T_j(x)``, and a network learns to say
    ``j`` by cross-entropy; it answers with probabilities ``y``. A window scores, by ``form``:

    - ``dirichlet``: minus the mean over ``j`` of ``(alpha_j - 1) . log y(T_j(x))``, where
      ``Dir(alpha_j)`` is fitted to the answers for version ``j`` of the training windows;
    - ``simple``: one minus the mean of ``y_j(T_j(x))``;
    - ``log``: the mean of ``-log y_j(T_j(x))``.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit: ``n = 4 orders`` versions, half as
    many of a single column, each about ``6 T hidden²`` multiply-adds a block of convolutions.
    Records: ``n = maps`` versions of ``D`` columns, ``D² + 2 hidden (D + hidden)`` each.

    Notes
    -----
    Trained for long, the network becomes sure of anomalies too: training stops soon after it is
    sure of held-out windows. What the maps leave alone, it cannot see: that a record stands between
    clusters, for instance.

    From the paper: cross-entropy over transformed versions, ``simple`` and ``dirichlet`` scores.
    Adaptations: windows are reversed, cut and put together in another order, and exchange halves of
    their columns, where images are turned, mirrored and shifted; shifts in time and signs are left
    alone, since they turn many a normal series into another normal one. Bare events exchange their
    ids instead, each for one about as frequent, or beyond 64 ids halves of random codes. Eight
    versions and 32 channels take the place of dozens and 64; versions that cannot be told are not
    dropped, as their answers are alike for all windows. Records go through random
    affine maps as in GOAD, whose ``log`` score it shares, but by cross-entropy instead of distances
    to centres. Categories become columns. Explanations integrate the gradient of the score on the
    way to the window from the nearest of ``EXAMPLES`` windows of the fit.

    References
    ----------
    Golan and El-Yaniv 2018, *Deep anomaly detection using geometric transformations*; Bergman and
    Hoshen 2020, *Classification-based anomaly detection for general data* (GOAD). Survey: Pang et
    al. 2020, section 5.1.4, equation 21.
    """

    class Config(TransformTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every classifier of transformations.

        Attributes
        ----------
        form
            Of the score: ``dirichlet``, ``simple`` or ``log``.
        """

        form: Literal["dirichlet", "simple", "log"] = "dirichlet"

    caps = Capabilities(
        name="gt",
        section="5.1.4",
        supervision="semi-supervised",
        kinds=("record", "series", "events"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="medium",
        loop="prediction",
        sources=("WAVES", "SUBSPACE"),
    )

    def _learn_usual(self, early: WindowBatch, late: WindowBatch) -> None:
        super()._learn_usual(early, late)
        self._alpha = self._answered(early)

    def _update_usual(self, early: WindowBatch, late: WindowBatch) -> None:
        self._alpha = self._answered(early)

    def _answered(self, data: WindowBatch) -> Tensor:
        """``[n, n]``: parameters of the answers for each version, where they are needed."""
        if self.config.form != "dirichlet":
            return torch.zeros(0)

        def sums(part: WindowBatch) -> Tensor:
            answers = self._log_answers(self._input(part), part.mask)
            logs = answers.clamp(min=LEAST_LOG).double()
            return torch.stack([logs.exp().sum(dim=0), logs.sum(dim=0)]).unsqueeze(0)

        means = evaluate(sums, data, self.config.batch).sum(dim=0) / len(data)
        return fit_dirichlet(*means).float()

    def _score_columns(self, columns: Tensor, mask: Tensor) -> Tensor:
        answers = self._log_answers(columns, mask)
        if self.config.form == "log":
            return surprise(answers)
        if self.config.form == "simple":
            return 1 - answers.diagonal(dim1=1, dim2=2).exp().mean(dim=-1)
        normality = (answers.clamp(min=LEAST_LOG) * (self._alpha - 1)).sum(dim=-1)
        return -normality.mean(dim=-1)

    def _state(self) -> dict[str, Tensor]:
        own = {"alpha": self._alpha} if self.config.form == "dirichlet" else {}
        return {**super()._state(), **own}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._alpha = state["alpha"] if self.config.form == "dirichlet" else torch.zeros(0)
        super()._restore(state)
