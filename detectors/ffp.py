"""Future frame prediction: a step that the steps before it did not announce is anomalous."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.loops.batches import split
from detectors.loops.deviance import Deviance
from detectors.loops.pooling import Pool
from detectors.loops.prediction import delayed, predict_steps
from detectors.loops.stage import Count, Positive, Run, Share, Stage, Training, Weight, gentle
from detectors.nets.embedding import SequenceInput
from detectors.nets.gru import Gru
from detectors.nets.heads import Guess, WindowHead, per_step_mean, window_loss
from detectors.nets.modules import load_module, module_state
from detectors.nets.tcn import Tcn, blocks_for
from detectors.scores import Explain, Scores

COUNTED = 128
"""Largest vocabulary whose ids are counted along a window; more would be mostly zeros."""


class FutureFrameNet(nn.Module):
    """Says every step of a window from the steps before it.

    Windows with numbers are read by causal convolutions, bare events by a GRU. Beside the steps
    themselves, the network sees how often each id has occurred so far.

    Parameters
    ----------
    features, vocab
        Numbers per step, ids of each category field.
    steps
        Steps of the windows at fit; the convolutions reach back that far.
    hidden, dropout
        Width of the network, and share of it that training hides from the event form.

    Notes
    -----
    Numbers are predicted as a share of the last value plus what the network adds: the last value
    alone is a hard prediction to beat on smooth series, and the network need not learn to copy it.
    """

    persistence: Tensor

    def __init__(
        self, features: int, vocab: tuple[int, ...], steps: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.input = SequenceInput(features, vocab)
        self.start = nn.Parameter(torch.zeros(self.input.width))
        self.counted = [field for field, size in enumerate(vocab) if size <= COUNTED]
        width = self.input.width + sum(vocab[field] for field in self.counted)
        self.body = Tcn(width, hidden, blocks_for(steps)) if features else Gru(width, hidden)
        self.dropout = nn.Dropout(0.0 if features else dropout)
        self.head = WindowHead(hidden, features, vocab)
        self.register_buffer("persistence", torch.zeros(features))

    def forward(self, data: WindowBatch) -> Guess:
        """Return the prediction of each step; the first comes from a learned start."""
        past = [delayed(self.input(data), self.start)]
        past += [_counts_before(data.cat[:, :, i], data.vocab[i]) for i in self.counted]
        hidden = self.dropout(self.body(torch.cat(past, dim=-1), data.mask))
        guess: Guess = self.head(hidden)
        last = delayed(data.num, torch.zeros_like(self.persistence))
        return replace(guess, num=guess.num + self.persistence * last)


class FutureFramePrediction(Detector):
    """Error of predicting each step of a window from the steps before it.

    A causal network predicts all steps at once, each from what came before. A step scores the
    squared Mahalanobis distance of the errors ``x_t - xhat_t`` of its numbers, relative to what
    they are on held-out windows at the same step, plus twice ``-log p(id)`` of each category, with
    more for a value that the fit has not seen. Event sequences of varying length, such as log
    sessions, also predict where they end, so that one which breaks off early stands out.

    Shapes
    ------
    Windows ``[B, T, F + C]`` of any ``T``; about ``6 T H²`` multiply-adds a block of convolutions,
    ``3 T H (H + C)`` for events.

    Notes
    -----
    Which form is used follows from the data: causal convolutions where there are numbers, a GRU
    for bare events. A window of one step is compared with the learned start alone.

    From the paper: prediction of the next frame, intensity and gradient losses. Adaptations: the
    U-Net of images becomes a causal convolutional network; the gradient lies along time, inside
    the predicted and inside the true path; optical flow becomes the co-movement of declared pairs
    of features; the adversarial term is left out; errors are weighed by their covariance instead
    of a ratio to the peak value, and numbers are predicted relative to the last value, because
    copying it wins on smooth series. The event form follows DeepLog; counts of the ids so far are
    added after LogAnomaly, ends and the surcharge for new values are our own.

    References
    ----------
    Liu et al. 2018, *Future frame prediction for anomaly detection: a new baseline*; Du et al.
    2017, *DeepLog: anomaly detection and diagnosis from system logs through deep learning*; Meng
    et al. 2019, *LogAnomaly: unsupervised detection of sequential and quantitative anomalies in
    unstructured logs*. Survey: Pang et al. 2020, section 5.1.3, equation 18.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden
            Width ``H`` of the network.
        dropout
            Share of the GRU's output that training hides.
        misplace
            Share of bare events that training shows in the wrong place: rare orders of events of
            processes that run side by side are normal, and otherwise seem all but impossible.
        gradient_weight
            Weight of the loss between the sizes of predicted and true changes.
        pairs, pair_weight
            Pairs of features whose changes belong together, and the weight of that loss.
        pooling
            A window scores the ``mean`` or the ``max`` of its steps, or the more unusual of
            ``both``; ``auto`` is ``max`` for bare events, ``both`` where there are numbers.
        ends
            Whether the end of an event sequence is predicted; ``auto`` does where fewer than half
            of the windows at fit are full.
        """

        hidden: Count = 64
        dropout: Share = 0.5
        misplace: Share = 0.05
        gradient_weight: Weight = 0.1
        pairs: tuple[tuple[int, int], ...] = ()
        pair_weight: Weight = 0.2
        pooling: Literal["auto", "mean", "max", "both"] = "auto"
        ends: Literal["auto", "yes", "no"] = "auto"
        steps_per_epoch: Count = 50
        batch: Count = 64
        learning_rate: Positive = 3e-3

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
    chunk = 2048

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._ends = self._predicts_ends(data)
        self._net = self._build()
        self._net.persistence.copy_(_persistence(data))
        self._net.head.learn_novelty(data)
        self._deviance = self._learn(data, self.config, Run(self.seed, budget, self.report))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        run = Run.of_update(self.seed, budget, self.report)
        newer = self._learn(data, gentle(self.config), run)
        self._deviance = self._deviance.updated(newer)

    def _learn(self, data: WindowBatch, settings: Training, run: Run) -> Deviance:
        early, late = split(data)
        stage = Stage(self._net, settings, run)
        # numbers over time have one order only
        misplace = 0.0 if data.features else self.config.misplace
        predict_steps(stage, early, late, self._loss, misplace)
        deviance = Deviance.fit(
            self._net,
            self._closed(late),
            self._pool(),
            batch=settings.batch,
            trim=settings.trim,
            by_position=True,
        )
        return deviance

    def _loss(self, batch: WindowBatch) -> Tensor:
        config, batch = self.config, self._closed(batch)
        guess = self._net(batch)
        loss = window_loss(guess, batch)
        if batch.features:
            loss = loss + config.gradient_weight * gradient_loss(guess, batch)
        if config.pairs:
            loss = loss + config.pair_weight * co_movement_loss(guess, batch, config.pairs)
        return loss

    def _predicts_ends(self, data: WindowBatch) -> bool:
        if data.features or data.fields != 1 or self.config.ends == "no":
            return False
        full = int((data.lengths == data.steps).sum())
        return self.config.ends == "yes" or 2 * full < len(data)

    def _closed(self, data: WindowBatch) -> WindowBatch:
        """Append the end of each window as a step of its own, whose id is padding."""
        if not self._ends:
            return data
        pad = nn.functional.pad
        mask = pad(data.mask, (1, 0), value=True)
        return WindowBatch(
            pad(data.num, (0, 0, 0, 1)), pad(data.cat, (0, 0, 0, 1)), mask, data.vocab
        )

    def _pool(self) -> Pool:
        if self.config.pooling != "auto":
            pool: Pool = self.config.pooling
            return pool
        return "both" if self._fitted().features else "max"

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        closed = self._closed(data)
        guess = self._net(closed)
        steps = self._deviance.steps(guess, closed)
        score = self._deviance.pooling(steps, closed.mask)
        if explain == "none":
            return Scores(score)
        fields = self._deviance.fields(guess, closed)
        if self._ends:  # an end is told at the last event
            steps, fields = _fold_end(steps, data.mask), _fold_end(fields, data.mask)
        return Scores(score, steps, fields, guess.num[:, : data.steps])

    def _build(self) -> FutureFrameNet:
        shape, config = self._fitted(), self.config
        net = FutureFrameNet(
            shape.features, shape.vocab, shape.steps, config.hidden, config.dropout
        )
        return net.to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            "ends": torch.tensor(self._ends),
            **module_state(self._net, "net."),
            **self._deviance.state("deviance."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._ends = bool(state["ends"])
        self._deviance = Deviance.from_state(state, "deviance.", self._pool())
        self._net = self._build()
        load_module(self._net, state, "net.")


def gradient_loss(guess: Guess, data: WindowBatch) -> Tensor:
    """``| |xhat_t - xhat_(t-1)| - |x_t - x_(t-1)| |``, sum of features, mean of steps, ``[B]``.

    Both changes lie inside their own path. Against the known last value, the change would cancel
    and leave the plain error.
    """
    said, true = guess.num.diff(dim=1).abs(), data.num.diff(dim=1).abs()
    return per_step_mean((said - true).abs().sum(dim=-1), data.mask[:, 1:])


def co_movement_loss(guess: Guess, data: WindowBatch, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    """``| dhat_i dhat_j - d_i d_j |`` of the changes of each pair, mean over the steps, ``[B]``."""
    first, second = [i for i, _ in pairs], [j for _, j in pairs]
    said, true = guess.num.diff(dim=1), data.num.diff(dim=1)
    gap = said[:, :, first] * said[:, :, second] - true[:, :, first] * true[:, :, second]
    return per_step_mean(gap.abs().sum(dim=-1), data.mask[:, 1:])


def _persistence(data: WindowBatch) -> Tensor:
    """Share ``[F]`` in 0 .. 1 of a number that carries over to the next step, by least squares."""
    real = data.mask[:, 1:].unsqueeze(-1)
    before, after = data.num[:, :-1].double() * real, data.num[:, 1:].double() * real
    energy = before.square().sum(dim=(0, 1)).clamp(min=1e-12)
    return ((before * after).sum(dim=(0, 1)) / energy).clamp(0.0, 1.0).float()


def _counts_before(ids: Tensor, vocab: int) -> Tensor:
    """``[B, T, V]``: ``log(1 + n)`` for the ``n`` times that an id stands before each step."""
    seen = nn.functional.one_hot(ids, vocab).float()
    return torch.log1p(seen.cumsum(dim=1) - seen)


def _fold_end(steps: Tensor, mask: Tensor) -> Tensor:
    """Add what ``[B, T + 1, ...]`` says of the end of a window to its last real step."""
    folded = steps[:, :-1].clone()
    rows = torch.arange(len(mask), device=mask.device)
    lengths = mask.sum(dim=1)
    folded[rows, (lengths - 1).clamp(min=0)] += steps[rows, lengths]
    return folded
