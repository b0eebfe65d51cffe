"""Self-trained deep ordinal regression: the ends of a ranking teach a better ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.arguments import UNLABELLED
from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.device import beside
from detectors.iforest import IsolationForest
from detectors.inputs import RecordInput
from detectors.loops.attribution import gradient_times_input
from detectors.loops.batches import split
from detectors.loops.neighbours import nearest_in_samples
from detectors.loops.ordinal import (
    PseudoLabels,
    mean_rank,
    overlap,
    pseudo_labels,
    regress,
)
from detectors.loops.reconstruction import copy_rows
from detectors.loops.stage import Count, Run, Share, Stage, Training, gentle
from detectors.nets.autoencoder import CorruptedAutoencoder
from detectors.nets.mlp import mlp
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores

SETTLED = 0.95
"""Overlap of the anomalous sets of two rounds above which another round would change nothing."""

KEPT = 4096
"""Windows kept for updates, those with labels first; without them a few new windows alone would be
ranked against each other."""


class OrdinalNet(nn.Module):
    """An encoder, and a hidden layer from its code to one number."""

    def __init__(self, columns: int, hidden: Sequence[int], code: int, units: int) -> None:
        super().__init__()
        self.encoder = mlp([columns, *hidden, code])
        self.head = mlp([code, units, 1])

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to ``tau [B]``; the last layer is linear, for a score has no bounds."""
        tau: Tensor = self.head(self.encoder(rows)).squeeze(-1)
        return tau


class OrdinalRegression(Detector):
    """Score ``tau(x)``, learned from pseudo-labels that come from a ranking of the data itself.

    A denoising autoencoder teaches an encoder. Isolation forest and distances to nearest neighbours
    in random subsamples rank the codes of all training windows. The ``anomalous`` upper and the
    ``normal`` lower end of the ranking are given the values 1 and 0, between which encoder and head
    learn to tell by the absolute error ``|tau(x) - y|``. The result ranks all windows anew, for the
    next of several ``rounds``; they end early where the anomalous set hardly changes any more, or
    begins to change more than before. Labels by people, where there are any, overrule the ranking.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, flattened to ``D`` columns; about
    ``64 D + 3,000`` multiply-adds a window.

    Notes
    -----
    Self-training confirms its own mistakes: large normal windows that the first ranking puts on top
    stay there. It pays where anomalies are part of the training data, ideally in about the share
    ``anomalous``; it need not beat the ranking that it starts from.

    Explanations are the size of gradient times input. ``partial_fit`` ranks new and remembered
    windows with the current score and learns one more round.

    Adaptations: windows are flattened after padding, and the residual network of images becomes a
    small dense encoder; 5 instead of 10 percent count as anomalous; the rule for the last round is
    ours, and so are labels.

    References
    ----------
    Pang et al. 2020, *Self-trained deep ordinal regression for end-to-end video anomaly detection*;
    Pang et al. 2015, *LeSiNN* (nearest neighbours in subsamples); Liu et al. 2012, *Isolation-based
    anomaly detection*. Survey: Pang et al. 2020, section 6.1, equation 35.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden, code, head
            Widths of the encoder's hidden layers, of its code, and of the hidden layer behind it.
        corrupt
            Share of the inputs that the autoencoder has to do without.
        anomalous, normal
            Shares of the windows at the ends of the ranking that get pseudo-labels.
        rounds
            Most rounds of ranking and learning; ``epochs`` are those of one round.
        pretrain_epochs
            Epochs as an autoencoder.
        """

        hidden: tuple[Count, ...] = (64,)
        code: Count = 16
        head: Count = 100
        corrupt: Share = 0.1
        anomalous: Annotated[float, msgspec.Meta(gt=0.0, le=0.1)] = 0.05
        normal: Annotated[float, msgspec.Meta(gt=0.0, le=0.5)] = 0.2
        rounds: Count = 5
        pretrain_epochs: Count = 20
        epochs: Count = 10
        steps_per_epoch: Count = 50
        batch: Annotated[int, msgspec.Meta(ge=2)] = 256

    caps = Capabilities(
        name="sdor",
        section="6.1",
        supervision="unsupervised",
        kinds=("record", "series"),
        uses_labels=True,
        partial_fit="full",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="deviation",
        sources=("CLUSTERS",),
    )

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._net = self._build()
        run = Run(self.seed, budget, self.report)
        self._pretrain(data, run)
        rows, marks = self._rows(data)[0], _marks(labels, data)
        stage, config = Stage(self._net, self.config, run), self.config
        self._self_train(stage, rows, marks, self._first_ranking(rows), config.rounds)
        self._remember(rows, marks, run)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        run = Run.of_update(self.seed, budget, self.report)
        rows = torch.cat([self._memory, self._rows(data)[0]])
        marks = torch.cat([self._marks, _marks(labels, data)])
        # the full learning rate: a tenth of it would not let a label be seen to work
        stage = Stage(self._net, gentle(self.config, rate=1.0), run)
        self._self_train(stage, rows, marks, self._rank(rows), 1)
        self._remember(rows, marks, run)

    def _pretrain(self, data: WindowBatch, run: Run) -> None:
        """Teach the encoder as one half of an autoencoder."""
        config = self.config
        copier = CorruptedAutoencoder(self._input.width, config.hidden, config.code, config.corrupt)
        copier.encoder = self._net.encoder
        settings = msgspec.structs.replace(config, epochs=config.pretrain_epochs)
        # half of a budget, lest nothing be left for the ranking
        copy_rows(Stage(copier.to(self.device), settings, run, share=0.5), *split(data), self._rows)

    def _first_ranking(self, rows: Tensor) -> Tensor:
        """``[N]``, by two measures that need no training."""
        with torch.no_grad():
            codes = torch.cat([self._net.encoder(part) for part in torch.split(rows, self.chunk)])
        scores = [nearest_in_samples(codes)]
        if len(codes) > 1:
            forest = IsolationForest(seed=self.seed)
            codes = codes.cpu()
            scores.append(forest.fit(codes).score(codes).score.to(rows.device))
        return mean_rank(scores)

    def _self_train(
        self, stage: Stage, rows: Tensor, marks: Tensor, scores: Tensor, rounds: int
    ) -> None:
        config = self.config
        last: PseudoLabels | None = None
        agreement = 0.0
        for done in range(1, rounds + 1):
            labels = pseudo_labels(scores, marks, config.anomalous, config.normal)
            if last is not None:
                now = overlap(last.anomalous, labels.anomalous)
                if now > SETTLED or now < agreement:
                    return
                agreement = now
            if not (labels.anomalous.any() and labels.normal.any()):
                return
            # each round has its part of what pre-training leaves of a budget
            share = 0.5 + 0.5 * done / rounds
            regress(replace(stage, share=share), rows, labels, self._net)
            last, scores = labels, self._rank(rows)

    def _rank(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._net(part) for part in torch.split(rows, self.chunk)])

    def _remember(self, rows: Tensor, marks: Tensor, run: Run) -> None:
        """Keep labelled windows, and a sample of the others in what room is left."""
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(run.seed))
        order = beside(order, rows)
        labelled_first = (marks[order] == UNLABELLED).byte().argsort(stable=True)
        kept = order[labelled_first][:KEPT].sort().values
        self._memory, self._marks = rows[kept], marks[kept]

    # -- scoring ----------------------------------------------------------------------------

    def _rows(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Rows ``[B, D]``, and which of their entries are no padding."""
        return self._input.rows(data)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        rows, _ = self._rows(data)
        score = self._net(rows)
        if explain == "none":
            return Scores(score)
        share = gradient_times_input(self._net, rows)
        fields = self._input.attribute(self._input.unflatten(share, data))
        return Scores(score, fields.sum(dim=-1), fields)

    # -- files ------------------------------------------------------------------------------

    def _build(self) -> OrdinalNet:
        config = self.config
        net = OrdinalNet(self._input.width, config.hidden, config.code, config.head)
        return net.to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **self._input.state("input."),
            **module_state(self._net, "net."),
            "memory": self._memory,
            "marks": self._marks,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._memory, self._marks = state["memory"], state["marks"]
        self._net = self._build()
        load_module(self._net, state, "net.")


def _marks(labels: Tensor | None, data: WindowBatch) -> Tensor:
    """Labels ``[N]`` int8, all unlabelled where none are given."""
    if labels is not None:
        return labels
    return torch.full((len(data),), UNLABELLED, dtype=torch.int8, device=data.mask.device)
