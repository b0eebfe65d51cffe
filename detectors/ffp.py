"""Future frame prediction: a step that the steps before it did not announce is anomalous."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import PAD, WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector, FitReport
from detectors.loops.deviance import error_moments, field_deviance, step_deviance
from detectors.loops.moments import Moments
from detectors.loops.prediction import delayed, predict_steps
from detectors.loops.training import Count, Run, Stage, Training, evaluate, gentle, split
from detectors.nets.embedding import SequenceInput
from detectors.nets.gru import Gru
from detectors.nets.heads import Guess, WindowHead, per_step_mean, window_loss
from detectors.nets.tcn import Tcn
from detectors.scores import Explain, Scores

MAX_BLOCKS = 6
"""Convolution blocks of the series form; six reach back over 253 steps."""

PSEUDO_WINDOWS = 10.0
"""Held-out windows that a position must have before its own error scale counts as much as the
common one."""

Weight = Annotated[float, msgspec.Meta(ge=0.0)]


class FutureFrameNet(nn.Module):
    """Says every step of a window from the steps before it.

    Parameters
    ----------
    features, vocab
        Numbers per step, ids of each category field.
    steps
        Steps of the windows at fit; the convolutions reach back that far.
    hidden
        Width of the network.

    Notes
    -----
    Numbers are predicted as a share of the last value plus what the network adds, because the last
    value alone is a hard prediction to beat on smooth series and the network need not learn it.
    """

    persistence: Tensor

    def __init__(self, features: int, vocab: tuple[int, ...], steps: int, hidden: int) -> None:
        super().__init__()
        self.input = SequenceInput(features, vocab)
        self.start = nn.Parameter(torch.zeros(self.input.width))
        width = self.input.width
        self.body = Tcn(width, hidden, blocks_for(steps)) if features else Gru(width, hidden)
        self.head = WindowHead(hidden, features, vocab)
        self.register_buffer("persistence", torch.zeros(features))

    def forward(self, data: WindowBatch) -> Guess:
        """Return the prediction of each step; the first comes from a learned start."""
        past = delayed(self.input(data), self.start)
        guess: Guess = self.head(self.body(past, data.mask))
        last = delayed(data.num, torch.zeros_like(self.persistence))
        return replace(guess, num=guess.num + self.persistence * last)


def blocks_for(steps: int) -> int:
    """Fewest convolution blocks, at most ``MAX_BLOCKS``, that reach over ``steps`` steps."""
    return max(1, min(MAX_BLOCKS, math.ceil(math.log2((steps + 3) / 4))))


class FutureFramePrediction(Detector):
    """Score.

    """

    class Config(Training, frozen=True, kw_only=True):
        """Settings.

        Attributes
        ----------
        hidden
            Width of the network.
        gradient_weight
            Weight of the difference loss: predicted changes should be as large as the true ones.
        pooling
            A window scores the ``mean`` or the ``max`` of its steps.
        ends
            Whether the end of an event sequence is predicted like an event; ``auto`` does so if
            fewer than half of the windows at fit are full.
        """

        hidden: Count = 64
        gradient_weight: Weight = 0.1
        pooling: Literal["auto", "mean", "max"] = "auto"
        ends: Literal["auto", "yes", "no"] = "auto"

    caps = Capabilities(
        name="ffp",
        section="5.1.3",
        supervision="semi-supervised",
        kinds=("series", "events"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        cost="small",
        loop="prediction",
        sources=("WAVES", "GRAMMAR"),
    )

    def _build(self) -> FutureFrameNet:
        shape = self._fitted()
        net = FutureFrameNet(shape.features, shape.vocab, shape.steps, self.config.hidden)
        return net.to(self.device)

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._ends = torch.tensor(self._predicts_ends(data))
        self._net = self._build()
        self._net.persistence.copy_(persistence(data))
        self._moments, self._ease = self._learn(data, self.config, budget, self.seed)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self.report = FitReport(windows=self.report.windows + len(data))
        newer, ease = self._learn(data, gentle(self.config), budget, self.seed + 1)
        self._moments = self._moments.updated(newer)

    def _predicts_ends(self, data: WindowBatch) -> bool:
        if self.config.ends != "auto":
            return bool(self.config.ends == "yes")
        full = int((data.lengths == data.steps).sum())
        return data.features == 0 and data.fields == 1 and 2 * full < len(data)

    def _closed(self, data: WindowBatch) -> WindowBatch:
        """Append the end as one more step whose id is padding."""
        if not self._ends:
            return data
        pad = nn.functional.pad
        mask = pad(data.mask, (1, 0), value=True)
        num, cat = pad(data.num, (0, 0, 0, 1)), pad(data.cat, (0, 0, 0, 1))
        return WindowBatch(num, cat, mask, data.vocab)

    def _learn(self, data: WindowBatch, settings: Training, budget: Budget, seed: int):
        run = Run(seed, budget, self.report)
        early, late = split(data)

        def distance(batch: WindowBatch) -> Tensor:
            batch = self._closed(batch)
            guess = self._net(batch)
            loss = window_loss(guess, batch)
            if settings.gradient_weight and batch.features:
                loss = loss + settings.gradient_weight * gradient_loss(guess, batch)
            return loss

        predict_steps(Stage(self._net, settings, run), early, late, distance)
        moments = error_moments(self._net, late, settings.batch, settings.trim)
        run.finish()
        return moments, torch.ones(1)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        closed = self._closed(data)
        guess = self._net(closed)
        steps = step_deviance(guess, closed, self._moments)
        if self.config.pooling == "mean":
            score = per_step_mean(steps, closed.mask)
        else:
            score = steps.amax(dim=1)
        if explain == "none":
            return Scores(score)
        return Scores(score, steps, field_deviance(guess, data, self._moments), guess.num)

    def _state(self): pass
    def _restore(self,state): pass


def persistence(data: WindowBatch) -> Tensor:
    """Share ``[F]`` in 0 .. 1 of a number that carries over to the next step, by least squares."""
    before = data.num[:, :-1].double() * data.mask[:, 1:].unsqueeze(-1)
    after = data.num[:, 1:].double() * data.mask[:, 1:].unsqueeze(-1)
    energy = before.square().sum(dim=(0, 1))
    share = (before * after).sum(dim=(0, 1)) / energy.clamp(min=1e-12)
    return share.clamp(0.0, 1.0).float()


def gradient_loss(guess: Guess, data: WindowBatch) -> Tensor:
    """``| |xhat_t - xhat_(t-1)| - |x_t - x_(t-1)| |`` summed over features, mean over steps, ``[B]``.

    Both differences lie inside their own path: against the known last value the difference would
    cancel to the plain error.
    """
    said, true = guess.num.diff(dim=1).abs(), data.num.diff(dim=1).abs()
    return per_step_mean((said - true).abs().sum(dim=-1), data.mask[:, 1:])
