"""Transfer: an encoder that has learned to fill gaps, frozen, and a small head on its codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.loops.attribution import from_nearest, spread_out
from detectors.loops.batches import evaluate, split
from detectors.loops.moments import Moments
from detectors.loops.prediction import Gapped, fill_in
from detectors.loops.stage import Count, Run, Share, Stage, Training
from detectors.nets.embedding import SequenceInput
from detectors.nets.gru import Gru
from detectors.nets.heads import Guess, WindowHead
from detectors.nets.modules import load_module, module_state
from detectors.nets.tcn import Tcn, blocks_for
from detectors.one_class import NEW_REACH
from detectors.scores import Explain, Scores

RIDGE = 1e-3
"""Added to the variances of the codes, as a share of their mean."""


class StepEncoder(nn.Module):
    """Causal convolutions where there are numbers, a GRU over bare events; codes are means."""

    def __init__(self, features: int, vocab: tuple[int, ...], steps: int, hidden: int) -> None:
        super().__init__()
        self.input = SequenceInput(features, vocab)
        width = self.input.width
        self.body = Tcn(width, hidden, blocks_for(steps)) if features else Gru(width, hidden)

    def columns(self, data: WindowBatch) -> Tensor:
        """``[B, T, E]``, 0 under the mask."""
        columns: Tensor = self.input(data) * data.mask.unsqueeze(-1)
        return columns

    def code(self, columns: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, E]`` and ``mask [B, T]`` to the mean of the hidden states, ``[B, K]``."""
        hidden: Tensor = self.body(columns, mask)
        return hidden.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


class Filler(nn.Module):
    """What pre-training needs besides the encoder: the look of a gap, and a way back."""

    def __init__(self, encoder: StepEncoder, hidden: int, data: WindowBatch) -> None:
        super().__init__()
        self.encoder = encoder
        self.gap = nn.Parameter(torch.zeros(encoder.input.width))
        self.head = WindowHead(hidden, data.features, data.vocab)

    def forward(self, batch: Gapped) -> Guess:
        """Say all steps from those that are not hidden."""
        columns = self.encoder.columns(batch.windows)
        columns = torch.where(batch.hidden.unsqueeze(-1), self.gap, columns)
        guess: Guess = self.head(self.encoder.body(columns, batch.windows.mask))
        return guess


class Transfer(Detector):
    """Squared Mahalanobis distance ``(z - mu)' Sigma^-1 (z - mu)`` of a window's code.

    An encoder is pre-trained on all windows of the fit, of all keys: a quarter of the steps is
    hidden, and it learns to say them from the steps before. It is then frozen, and mean and
    covariance of its codes make the head. ``partial_fit`` moves the head alone, for instance
    towards the windows of a single tenant.

    Shapes
    ------
    Windows ``[B, T, F + C]`` of any ``T``; about ``6 T K²`` multiply-adds a block of convolutions,
    ``3 T K (K + C)`` for events, and ``K²`` for the head.

    Notes
    -----
    Which form is used follows from the data: causal convolutions where there are numbers, a GRU for
    bare events. The head wants ten windows for each number of a code; with fewer, the covariance
    shrinks towards its diagonal.

    Explanations integrate the gradient of the distance on the way to the window from the nearest of
    ``EXAMPLES`` windows of the fit.

    Adaptations: the network of the paper was trained on images of other kinds and its head is a
    one-class SVM, which is not offered; here the stream itself is what is learned from first. The
    covariance has a ridge, the embedding of a new value is ``NEW_REACH`` times as long as the
    others. The encoder is never fine-tuned.

    References
    ----------
    Andrews et al. 2016, *Transfer representation-learning for anomaly detection*. Survey: Pang et
    al. 2020, section 4.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden
            Width ``K`` of the encoder and of its codes.
        hide
            Share of the steps that pre-training hides.
        """

        hidden: Count = 64
        hide: Share = 0.25
        trim: Share = 0.01
        epochs: Count = 20
        steps_per_epoch: Count = 50
        batch: Count = 64

    caps = Capabilities(
        name="transfer",
        section="4",
        supervision="semi-supervised",
        kinds=("series", "events"),
        partial_fit="head-only",
        per_step=True,
        per_feature=True,
        cost="small",
        loop="prediction",
        sources=("WAVES", "GRAMMAR"),
    )
    chunk = 2048

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._encoder = self._build()
        run = Run(self.seed, budget, self.report)
        filler = Filler(self._encoder, self.config.hidden, data).to(self.device)
        fill_in(Stage(filler, self.config, run), *split(data), filler, self.config.hide)
        self._encoder.input.push_out_new(NEW_REACH)
        self._examples = self._encoder.columns(spread_out(data))
        self._head = self._new_head(evaluate(self._codes, data, self.config.batch))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        codes = evaluate(self._codes, data, self.config.batch)
        self._head = self._head.updated(self._new_head(codes))
        self.report.losses = [float(self._head.distance(codes).mean())]
        self.report.stopped = "epochs"

    def _new_head(self, codes: Tensor) -> Moments:
        return Moments.fit(codes, self.config.trim, RIDGE)

    def _codes(self, data: WindowBatch) -> Tensor:
        return self._encoder.code(self._encoder.columns(data), data.mask)

    def _distance(self, columns: Tensor, mask: Tensor) -> Tensor:
        """Score ``[B, T, E]`` and ``mask [B, T]``, ``[B]``."""
        return self._head.distance(self._encoder.code(columns, mask))

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        columns = self._encoder.columns(data)
        score = self._distance(columns, data.mask)
        if explain == "none":
            return Scores(score)
        share = from_nearest(self._distance, columns, data.mask, self._examples)
        feature = self._encoder.input.attribute(share)
        return Scores(score, feature.sum(dim=-1), feature)

    def _build(self) -> StepEncoder:
        shape = self._fitted()
        encoder = StepEncoder(shape.features, shape.vocab, shape.steps, self.config.hidden)
        return encoder.to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **module_state(self._encoder, "encoder."),
            **self._head.state("head."),
            "examples": self._examples,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._examples = state["examples"]
        self._head = Moments.from_state(state, "head.")
        self._encoder = self._build()
        load_module(self._encoder, state, "encoder.")
