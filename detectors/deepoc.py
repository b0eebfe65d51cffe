"""DeepOC: codes of windows on one side of a hyperplane, which still tell the windows apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget
from detectors.loops.attribution import gradient_times_input
from detectors.loops.batches import evaluate, held_out_loss, split
from detectors.loops.margin import margin_loss, offset_of
from detectors.loops.pooling import Pool
from detectors.loops.reconstruction import minimise
from detectors.loops.stage import Count, Share, Stage, Training
from detectors.nets.heads import Guess, window_loss
from detectors.nets.two_views import DeepOneClassNet
from detectors.scaling import IQR_TO_SIGMA
from detectors.scores import Explain, Scores
from detectors.sequence_autoencoder import SequenceAutoencoder

LEAST_SPREAD = 1e-5
"""Floor of the spreads that terms of the score are divided by: where all windows of the fit are
alike, rounding errors would fill the score."""


class DeepOneClass(SequenceAutoencoder):
    """How far a window's code lies below a hyperplane ``w . z = rho``, plus how badly it is copied.

    Two views of a window, its values and their changes from step to step, each have convolutional
    codes, a decoder and a hyperplane over the direction ``z`` of the mean code. They are trained
    together on the sum over the views of

    ``0.5 |w|² + mean max(0, rho - w . z) / nu - rho + beta |x - xhat|²``.

    The hyperplane makes codes alike, the decoder keeps them from being the same for all windows. A
    window scores the mean over the views of ``rho - w . z``, with ``rho`` the ``nu`` quantile of
    all training windows, plus the error of copying its values, less the usual one; each in units of
    its spread on held-out windows.

    Shapes
    ------
    Windows ``[B, T, F + C]`` of any ``T``; about ``T W (10 F + 30 W)`` multiply-adds a window for
    ``W = width``, in parallel over the steps.

    Notes
    -----
    Without ``beta`` all codes become one. Directions that are at least 0 in all coordinates lie on
    one side of a hyperplane, and have one length: the objective has no lower bound for codes that
    may grow.

    From the paper: stacked convolutions, compact codes and reconstruction in one objective, a view
    of motion beside that of appearance. Adaptations: windows of records take the place of clips,
    their changes that of optical flow, convolutions over time that of three-dimensional ones; the
    adversarial term is left out; the error in the score is added, and whitened; each mini-batch has
    its own ``rho`` while training; categories. ``partial_fit`` renews ``rho`` by the new windows.
    Explanations are the size of gradient times input of the hyperplanes, and the shares of fields
    in the error as far as it is above the usual one.

    References
    ----------
    Wu et al. 2019, *A deep one-class neural network for anomalous event detection in complex
    scenes*. Survey: Pang et al. 2020, section 5.2.2, equation 27.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        width, code
            Channels of the outer level, half of those of the inner one, and of the code.
        nu
            Share of the training windows that may lie below a hyperplane.
        beta
            Weight of the error of reconstruction in training.
        residual
            Whether that error is part of the score.
        pooling
            The error of a window is the ``mean`` or the ``max`` over its steps, or the more unusual
            of ``both``.
        """

        width: Count = 32
        code: Count = 32
        nu: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.1
        beta: Annotated[float, msgspec.Meta(ge=0.0)] = 1.0
        residual: bool = True
        pooling: Pool = "both"
        epochs: Count = 50
        batch: Count = 128
        steps_per_epoch: Count = 50
        weight_decay: float = 1e-5
        trim: Share = 0.01

    caps = Capabilities(
        name="deepoc",
        section="5.2.2",
        supervision="semi-supervised",
        kinds=("series",),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        cost="small",
        loop="one-class",
        sources=("WAVES",),
    )
    chunk = 128
    _net: DeepOneClassNet

    def _build(self) -> DeepOneClassNet:
        shape, config = self._fitted(), self.config
        net = DeepOneClassNet(shape.features, shape.vocab, config.width, config.code)
        return net.to(self.device)

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._fit(data, labels, budget)
        self._learn_offsets(data)
        quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device=data.num.device)
        terms = evaluate(self._terms, split(data)[1], self.config.batch)
        low, self._middle, high = terms.quantile(quarters, dim=0)
        self._spread = ((high - low) / IQR_TO_SIGMA).clamp(min=LEAST_SPREAD)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._partial_fit(data, labels, budget)
        self._learn_offsets(data)

    def _learn_offsets(self, data: WindowBatch) -> None:
        """Let a share ``nu`` of the windows lie below each hyperplane."""
        values = evaluate(self._terms, data, self.config.batch)[:, :2]
        self._offset = offset_of(values, self.config.nu)

    def _train(self, stage: Stage, early: WindowBatch, late: WindowBatch) -> None:
        def validate() -> float:
            return held_out_loss(self._loss, late, stage.settings)

        minimise(stage, early, self._loss, validate, new_ids=True)

    def _loss(self, data: WindowBatch) -> Tensor:
        net, config = self._net, self.config
        codes = net.encode(net.input(data), data.mask)
        values = net.margin_values(codes, data.mask)
        hinges = margin_loss(values, config.nu).sum(dim=1).float() + 0.5 * net.squared_weights()
        told = replace(data, num=net.moves(data.num, data.mask), cat=data.cat[:, :, :0], vocab=())
        errors = window_loss(net.rebuild(codes, data.mask), data)
        errors = errors + window_loss(net.rebuild_moves(codes, data.mask), told)
        return torch.add(hinges, data.lengths * errors, alpha=config.beta)

    # -- scoring ----------------------------------------------------------------------------

    def _terms(self, data: WindowBatch) -> Tensor:
        """``[B, 3]`` float64: ``w . z`` of both views, and the error of the values."""
        net, mask = self._net, data.mask
        codes = net.encode(net.input(data), mask)
        error = self._error(net.rebuild(codes, mask), data)
        return torch.cat([net.margin_values(codes, mask), error.double().unsqueeze(1)], dim=1)

    def _error(self, guess: Guess, data: WindowBatch) -> Tensor:
        return self._deviance.pooling(self._deviance.steps(guess, data), data.mask)

    def _margins(self, values: Tensor) -> Tensor:
        """Mean over the views of ``rho - w . z``, in usual spreads."""
        below: Tensor = (self._offset - values) / self._spread[:2]
        return below.mean(dim=1).float()

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        terms = self._terms(data)
        score = self._margins(terms[:, :2])
        excess = ((terms[:, 2] - self._middle[2]) / self._spread[2]).float()
        if self.config.residual:
            score = score + excess
        if explain == "none":
            return Scores(score)
        rebuilt = super()._score(data, "full")
        feature = self._net.input.attribute(self._slopes(data))
        if self.config.residual and rebuilt.feature is not None:
            total = rebuilt.feature.sum(dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
            share = excess.clamp(min=0) / total
            feature = feature + rebuilt.feature * share[:, None, None]
        return replace(rebuilt, score=score, step=feature.sum(dim=2), feature=feature)

    def _slopes(self, data: WindowBatch) -> Tensor:
        """``[B, T, E]``: gradient times input of the margins."""
        with torch.inference_mode(False):
            mask = data.mask.clone()  # gradients need tensors of their own

        def margins(columns: Tensor) -> Tensor:
            return self._margins(self._net.margin_values(self._net.encode(columns, mask), mask))

        return gradient_times_input(margins, self._net.input(data))

    # -- files ------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        own = {"offset": self._offset, "middle": self._middle, "spread": self._spread}
        return {**super()._state(), **own}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._offset, self._middle = state["offset"], state["middle"]
        self._spread = state["spread"]
        super()._restore(state)
