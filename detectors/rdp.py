"""Random distance prediction: where windows are many, a random network is easy to foretell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget
from detectors.inputs import RecordInput
from detectors.loops.batches import evaluate, held_out_loss, split
from detectors.loops.stage import Count, Positive, Run, Share, Stage, Training, gentle
from detectors.loops.training import train
from detectors.nets.distances import RandomDistances, similarity
from detectors.network import ExplainedNetwork
from detectors.scores import Explain, Scores


class RandomDistancePrediction(ExplainedNetwork):
    """How badly learners foretell what random networks, their targets, make of a window.

    A learner ``phi`` meets frequent windows often, and comes close to its target ``phi'`` there. It
    minimises ``mean_k (phi_k - phi'_k)²`` plus the squared difference between the similarities of
    two windows, ``<u(phi_i), u(phi_j)>`` and ``<u(phi'_i), u(phi'_j)>``, where ``u`` divides by the
    sum of absolute values. A window scores the first term alone, averaged over ``trees`` pairs of
    networks.

    Each tree learns from a random sample of its own, in ``rounds``: after each it drops the share
    ``filtered`` of its windows that score highest, and starts over on the others with new networks.
    Those of the last round are kept.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; ``2 K D`` multiply-adds a window and tree for ``K = units``.

    Notes
    -----
    A learner is to be no stronger than it needs: one that copies its target everywhere sees nothing
    strange any more. Where windows spread in all directions, longer training narrows the gap
    between normal windows and anomalies; so do anomalies that are many enough to be learned, which
    is what the rounds are for. Trees disagree most where little was learned; the spread over them
    comes with each score.

    From the paper: both terms of the loss, networks, score, samples, filter. Adaptations: trees lie
    in one tensor and share optimiser (Adam) and early stop, which leaves the share ``filtered`` of
    the held-out windows out as well; the networks of the last round score instead of those of the
    first (``rounds=1`` gives these), as those have learned from what was to be dropped; rounds and
    trees are fewer; no dropout, which shrinks what is learned and so leaves errors on large normal
    windows; categories become columns. The term of pairs is of the order of ``1 / K²`` and
    hardly changes a ranking. An update keeps the targets, and leaves out the share ``filtered``
    of its windows too. Explanations integrate the gradient of the score on the way to the window
    from the nearest of ``EXAMPLES`` windows of the fit.

    References
    ----------
    Wang et al. 2020, *Unsupervised representation learning by predicting random distances*;
    Burda et al. 2019, *Exploration by random network distillation*; Sundararajan et al. 2017,
    *Axiomatic attribution for deep networks* (explanations). Survey: Pang et al. 2020, section
    5.2.1, equation 26.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        trees, units
            Pairs of networks, and width of what they make of a window.
        rounds, filtered
            Rounds of training, whose ``epochs`` are those of one round, and the share of the
            windows that each tree drops from one to the next.
        sample
            Most windows that a tree learns from.
        """

        trees: Count = 8
        units: Count = 50
        rounds: Count = 3
        filtered: Share = 0.05
        sample: Count = 10_000
        epochs: Count = 20
        steps_per_epoch: Count = 30
        batch: Count = 192
        learning_rate: Positive = 3e-3

    caps = Capabilities(
        name="rdp",
        section="5.2.1",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="one-class",
        sources=("SUBSPACE", "WAVES", "FEWLABELS"),
    )
    chunk = 1024  # windows of a chunk times trees stay in the processor's cache
    _net: RandomDistances

    def _network(self) -> RandomDistances:
        columns = self._input.width
        return RandomDistances(self.config.trees, columns, self.config.units)

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        rounds = self.config.rounds
        self._input = RecordInput.fit(data)
        early, late = split(data)
        run = Run(self.seed, budget, self.report)
        chosen = self._samples(early)
        size = chosen.shape[1]
        for done in range(1, rounds + 1):
            if done > 1:
                chosen = self._without_the_highest(early, chosen)
            self._net = self._network().to(self.device)
            stage = Stage(self._net, self.config, run, share=done / rounds)
            self._learn(stage, early, late, chosen)
            if run.spent():
                break  # networks that have learned nothing must not take the place of these
        self.report.trimmed += size - chosen.shape[1]
        self._learn_usual(early, late)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        run = Run.of_update(self.seed, budget, self.report)
        early, late = split(data)
        chosen = self._without_the_highest(early, self._samples(early))
        self._learn(Stage(self._net, gentle(self.config), run), early, late, chosen)

    def _samples(self, data: WindowBatch) -> Tensor:
        """Draw the windows ``[M, n]`` that each tree is to learn from."""
        order = torch.rand(self.config.trees, len(data)).argsort(dim=1)
        return order[:, : self.config.sample].to(data.mask.device)

    def _without_the_highest(self, data: WindowBatch, chosen: Tensor) -> Tensor:
        """Drop from the ``[M, n]`` windows of each tree the share with its highest errors."""
        size = chosen.shape[1]
        kept = size - math.floor(self.config.filtered * size)
        errors = evaluate(lambda part: self._votes(self._rows(part)).T, data, self.config.batch)
        order = errors.T.gather(1, chosen).topk(kept, largest=False, sorted=False).indices
        return chosen.gather(1, order)

    def _learn(self, stage: Stage, early: WindowBatch, late: WindowBatch, chosen: Tensor) -> None:
        """Train all trees, each on its ``[M, n]`` chosen windows in an order of its own."""
        settings, rows = stage.settings, self._rows(early)
        judged = msgspec.structs.replace(settings, trim=max(settings.trim, self.config.filtered))

        def draw(generator: torch.Generator) -> Iterator[Tensor]:
            order = torch.rand(chosen.shape, generator=generator).argsort(dim=1)
            order = order[:, : settings.batch * settings.steps_per_epoch].to(chosen.device)
            for places in torch.split(order, settings.batch, dim=1):
                yield chosen.gather(1, places)

        def loss(batch: Tensor) -> Tensor:
            learned, random = self._net(rows[batch])
            pairs = similarity(learned) - similarity(random)
            return (distance(learned, random) + pairs.square()).flatten()

        train(stage, draw, loss, validate=lambda: held_out_loss(self._loss, late, judged))

    def _loss(self, data: WindowBatch) -> Tensor:
        return self._votes(self._rows(data)).mean(dim=0)

    # -- scoring ----------------------------------------------------------------------------

    def _votes(self, rows: Tensor) -> Tensor:
        """Scores ``[M, B]`` of rows ``[B, D]`` by each tree."""
        return distance(*self._net(rows))

    def _score_columns(self, columns: Tensor, mask: Tensor) -> Tensor:
        return self._votes(self._flat(columns)).mean(dim=0)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        columns = self._input(data)
        votes = self._votes(self._flat(columns))
        scores = Scores(votes.mean(dim=0))
        if explain == "full":
            scores = self._explained(data, columns, scores.score)
        return replace(scores, uncertainty=votes.std(dim=0, correction=0))


def distance(learned: Tensor, random: Tensor) -> Tensor:
    """Mean squared difference of vectors ``[..., K]``."""
    return (learned - random).square().mean(dim=-1)
